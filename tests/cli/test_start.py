"""Runs that begin with the policy of another run."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from mamlrl.run_folder.checkpoints import read_content

from .conftest import Command, assert_fails, reproducible


def meta(checkpoint: str) -> dict:
    return read_content(Path(checkpoint))["state"]["meta"]


def same(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_begins_with_what_another_learner_has_learned(tiny_run: Command, command: Command) -> None:
    assert tiny_run("--iterations 2 --out first").code == 0
    second = "--learner promp --sampling.rollouts 5 --iterations 3 --start_from first --checkpoint.keep 9 --out second"
    assert tiny_run(second).code == 0
    theirs, ours = (
        meta(f"{run}/checkpoints/{name}.pt") for run, name in [("first", "best"), ("second", "iteration-000000")]
    )
    assert same(theirs["init"], ours["init"])
    assert not same(ours["init"], meta("second/checkpoints/iteration-000001.pt")["init"])
    shutil.rmtree("first")  # what a run begins with is not needed again
    assert command("--resume second --iterations 4").code == 0
    assert len(reproducible("second")) == 4


def test_step_sizes_come_along_where_both_learn_them(tiny_run: Command) -> None:
    assert tiny_run("--learner metasgd --iterations 2 --out first").code == 0
    last = "first/checkpoints/iteration-000002.pt"
    assert tiny_run(f"--learner metasgd --iterations 1 --start_from {last} --out second").code == 0
    (theirs,), (ours,) = (meta(path)["step_sizes"] for path in (last, "second/checkpoints/iteration-000000.pt"))
    assert same(theirs, ours)
    assert tiny_run(f"--iterations 1 --start_from {last} --out third").code == 0
    assert meta("third/checkpoints/iteration-000000.pt")["step_sizes"] == []


def test_predictions_of_other_numbers_begin_at_zero(tiny_run: Command) -> None:
    few = "--learner rl2 --sampling.rollouts 2 --policy.hidden_sizes [4] --checkpoint.keep 9"
    predict = "--sampling.predicted_infos [distance]"
    for run, flags in [("none", ""), ("one", f"{predict} --start_from none"), ("again", f"{predict} --start_from one")]:
        outcome = tiny_run(f"{few} --iterations 2 {flags} --out {run}")
        assert outcome.code == 0, outcome.err
    last, one, again = (
        meta(f"{run}/checkpoints/{name}.pt")["init"]
        for run, name in [("none", "best"), ("one", "iteration-000000"), ("again", "iteration-000000")]
    )
    assert not one.pop("predictor_weight").any() and not one.pop("predictor_bias").any() and same(last, one)
    assert same(again, meta("one/checkpoints/best.pt")["init"]) and again["predictor_weight"].any()
    assert tiny_run(f"{few} --iterations 1 --start_from again --out last").code == 0
    assert "predictor_weight" not in meta("last/checkpoints/iteration-000000.pt")["init"]
    with open("again/metrics.csv") as rows:
        assert "prediction/explained_variance" in rows.readline()


def test_predictions_of_as_many_other_numbers_begin_at_zero_too(command: Command) -> None:
    few = (
        "--env maze --iterations 1 --sampling.tasks 2 --environment.horizon 5 --environment.kwargs.size 2 "
        "--environment.kwargs.smallest 2 --policy.hidden_sizes [4] --sampling.episodes 2"
    )
    for number, start in (("x", ""), ("y", "--start_from x/checkpoints/iteration-000001.pt")):
        outcome = command(few, f"--sampling.predicted_infos [target_{number}] {start} --out {number}")
        assert outcome.code == 0, outcome.err
    theirs, ours = (meta(f"{run}/checkpoints/iteration-00000{n}.pt")["init"] for run, n in (("x", 1), ("y", 0)))
    assert theirs["predictor_bias"].any() and not ours["predictor_bias"].any()
    assert torch.equal(theirs["filters_0"], ours["filters_0"])


def test_what_a_run_cannot_begin_with_is_said_before_anything_is_written(tiny_run: Command) -> None:
    for seed in (1, 2):
        assert tiny_run(f"--iterations 1 --seed {seed} --out runs/seed-{seed}").code == 0
    Path("notes.txt").write_text("no policy")
    for start, code, words in [
        ("nowhere", 2, ["nowhere: no such file or folder"]),
        ("notes.txt", 2, ["notes.txt: no checkpoint"]),
        ("runs", 2, ["start_from is ", "runs, which holds 2 policies; it must be one, such as"]),
        ("runs/seed-1 --policy.hidden_sizes [9]", 1, ["start_from: ", "has no policy of this run: init", "here it is"]),
    ]:
        assert_fails(tiny_run(f"--iterations 1 --start_from {start} --out new"), code, *words)
        assert not Path("new").exists()
