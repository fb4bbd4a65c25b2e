#!/usr/bin/env bash
# Train and evaluate everything behind one section of docs/results.md, anew and from nothing but its configuration:
#
#   benchmarks/reproduce.sh navigation-paper [FOLDER] [FLAG ...]
#
# Runs go to FOLDER (runs/reproduced/NAME), flags to every training. What is there already is not trained again and
# what was cut short goes on, so the command may be stopped and repeated.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:?name a configuration, such as navigation-paper}
folder=${2:-runs/reproduced/$name}
seeds=1 several=""
case $name in
navigation-paper)
    several="maml fomaml context imaml reptile promp anil cavia dice multitask oracle" learners="$several emaml metasgd mamlpp"
    seeds="1 2 3" evaluation="--protocol paper --random"
    ;;
cheetah-dir-paper | cheetah-vel-paper)
    learners="maml fomaml emaml dice promp metasgd mamlpp anil cavia context imaml reptile multitask oracle"
    evaluation="--protocol paper --random"
    if [ "$name" = cheetah-dir-paper ]; then seeds="1 2 3" several="fomaml anil"; fi
    ;;
navigation-fast | cheetah-dir-fast | cheetah-vel-fast)
    evaluation="--protocol paper"
    case $name in cheetah-vel-fast) learners=metasgd ;; *) learners=maml ;; esac
    if [ "$name" = navigation-fast ]; then seeds="1 2 3"; fi
    ;;
ant-dir) learners="maml rl2" evaluation="--tasks 40 --mismatched" ;;
ant-vel) learners="maml rl2" evaluation="--tasks 20 --mismatched" ;;
ant-goal) learners="maml oracle" evaluation="--tasks 20 --mismatched" ;;
ant-vel-paper | ant-dir-paper) learners="maml oracle" evaluation="--protocol paper" ;;
navigation-paper-original) learners="maml mamlpp" several=maml seeds="1 2 3" evaluation="--protocol paper" ;;
*-paper-original) learners=maml evaluation="--protocol paper" ;;
cheetah-dir) learners="maml metasgd rl2" evaluation="--tasks 200" ;;
cheetah-vel) learners="maml rl2" evaluation="--tasks 200" ;;
cheetah-crippled | cheetah-dynamics | cheetah-slope)
    learners="maml rl2 multitask oracle" evaluation="--tasks 60 --mismatched"
    ;;
arm-payload) learners="maml rl2 multitask oracle" evaluation="--tasks 200 --mismatched" ;;
navigation) learners="maml rl2" evaluation="--tasks 200" ;;
ant-vel-long) learners=rl2 evaluation="--tasks 20" ;;
bandit | bandit-n10-*) learners=rl2 seeds="1 2 3" evaluation="--protocol rl2" ;;
bandit-* | tabular-mdp | tabular-mdp-*) learners=rl2 evaluation="--protocol rl2" ;;
maze | maze-*) learners=rl2 evaluation="--protocol rl2 --cell maze" ;;
sinusoid)
    learners="maml fomaml metasgd mamlpp anil cavia imaml reptile cnp recurrent multitask oracle"
    seeds="1 2 3" several=maml evaluation="--protocol paper"
    ;;
sinusoid-frequency) learners="maml metasgd" evaluation="--tasks 600" ;;
glyphs | glyphs-20-way) learners="maml protonet" evaluation="--tasks 600" ;;
glyphs-long) learners=maml evaluation="--tasks 600" ;;
*)
    echo "error: no results of $name; there are some of the configurations named in docs/results.md and docs/bandits.md" >&2
    exit 2
    ;;
esac

for seed in $seeds; do
    for learner in $learners; do
        if [ "$seed" != 1 ] && [[ " ${several:-$learners} " != *" $learner "* ]]; then continue; fi
        run=$folder/$learner/seed-$seed
        if [ -e "$run/config.yaml" ]; then
            python -m mamlrl.train --resume "$run"
        else
            python -m mamlrl.train --env "$name" --learner "$learner" --seed "$seed" --out "$run" "${@:3}"
        fi
    done
done
python -m mamlrl.evaluate "$folder" $evaluation --out "$folder/evaluation-$(date +%Y%m%d-%H%M%S)"
