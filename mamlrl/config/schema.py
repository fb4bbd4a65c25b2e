"""Every setting of a run, as frozen dataclasses with the docstring of each field beneath it.

The docstrings are the help of the command line. Values are checked on construction: a setting out of range raises
`ConfigError`, which names the field, the value and what would be right.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

from mamlrl.errors import ConfigError, cut, shown

LARGEST = 10**9
"""Bound of counts that have no other; a larger one is a slip."""
HUGE, TINY = 1e30, 1e-30
"""Bounds of numbers that have no other: single precision holds them and their products with what is near 1."""

IS_NO_METHOD = {"makes a method": False}
"""Mark of a field, or of all fields of a section, in which runs of one method may differ."""
HOW_IT_RUNS = {**IS_NO_METHOD, "may change": True}
"""Mark of those that a resumed run may change besides: they change no result, or none that was had."""
OF_ROLLOUTS, OF_EXAMPLES = {"data": "rollouts"}, {"data": "examples"}
"""Marks of those that only the one kind of data reads: rollouts in environments, or examples of supervised tasks."""
TAKEN = r"return|return_interval|eval/.*|env_steps|time|method|seed|step|task(_\d+)?"
"""Names of metrics, and of columns of evaluation.csv, that no number of an environment's info may have."""


def require(valid: bool, name: str, value: object, expected: str) -> None:
    """A setting has a value that it may have; learners check their own settings with it too.

    Raises:
        ConfigError: it has not; names the field, the value and what would be right.
    """
    if not valid:
        written = list(value) if isinstance(value, tuple) else value  # as in YAML
        raise ConfigError(f"{cut(name)} is {shown(written)}; it must be {expected}")


def require_at_least(name: str, value: object, least: int) -> None:
    """A number that somebody's program gives is an integer, and not too small.

    Raises:
        ConfigError: it is not; names it, the value and what would be right.
    """
    require(isinstance(value, Integral) and not isinstance(value, bool), name, value, "an integer")
    require(value >= least, name, value, f"at least {least}")  # type: ignore[operator]


def _require_count(name: str, value: int, least: int, most: int = LARGEST) -> None:
    require(value >= least, name, value, f"at least {least}")
    require(value <= most, name, value, f"at most {most}")


def _require_positive(name: str, value: float) -> None:
    require(value > 0, name, value, "positive")
    require(TINY <= value <= HUGE, name, value, f"from {TINY} to {HUGE}")


def _require_not_negative(name: str, value: float) -> None:
    require(value >= 0, name, value, "at least 0")
    require(value <= HUGE, name, value, f"at most {HUGE}")


def _require_word(name: str, value: str, expected: str) -> None:
    """Text that a file's name and a line in a terminal can hold."""
    require(value.isprintable() and len(value.encode()) <= 200, name, value, expected)


def _require_plain(name: str, value: Any) -> None:
    """What YAML and checkpoints hold: numbers, text, truth values, and lists and mappings of them."""
    if isinstance(value, dict):
        for key, item in value.items():
            require(isinstance(key, str) and key != "", f"a key of {name}", key, "a name")
            _require_plain(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_plain(name, item)
    elif isinstance(value, str):
        require(not re.search(r"[\0\ud800-\udfff]", value), name, value, "text in UTF-8 without zero bytes")
    elif isinstance(value, int):  # truth values too
        require(abs(value) < 2**63, name, value, "an integer of 64 bits")
    else:
        plain = value is None or (isinstance(value, float) and not math.isnan(value))
        require(plain, name, value, "a number, text, a truth value, or a list or mapping of them")


@dataclass(frozen=True)
class EnvironmentConfig:
    """The task family and how its episodes are run."""

    horizon: int = field(default=0, metadata=OF_ROLLOUTS)
    """Time steps after which an episode is cut off; 0 takes the limit that the environment is registered with
    (max_episode_steps), or 100 where there is none. A run stores the number."""
    action_scale: float = field(default=1.0, metadata=OF_ROLLOUTS)
    """Policy units that span half of the action range: a policy action of +-action_scale reaches the bounds."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor, or of the supervised tasks (docs/supervised.md)."""
    metrics: tuple[str, ...] = field(default=("success:max", "diverged:max"), metadata={**IS_NO_METHOD, **OF_ROLLOUTS})
    """Numbers of the environment's info that become metrics where it has them: NAME, NAME:mean, NAME:max or NAME:last,
    the mean over a rollout's time steps, the largest, or the last; the metric is the mean over rollouts."""
    vectorization: Literal["auto", "sync", "async"] = field(default="auto", metadata={**IS_NO_METHOD, **OF_ROLLOUTS})
    """How copies of the environment run: auto takes the family's own vector environment where it has one, and else
    steps one after the other, as sync does; async spreads them over worker processes."""
    workers: int = field(default=0, metadata={**HOW_IT_RUNS, **OF_ROLLOUTS})
    """Worker processes of async, each with many copies; 0 takes as many as processors. Results do not depend on it."""
    timeout: float = field(default=0.0, metadata={**HOW_IT_RUNS, **OF_ROLLOUTS})
    """Seconds that one call of an environment's method may take in a worker process; 0 for any time."""

    def __post_init__(self) -> None:
        _require_count("environment.horizon", self.horizon, 0)
        _require_count("environment.workers", self.workers, 0)
        require(0 <= self.timeout < math.inf, "environment.timeout", self.timeout, "at least 0 seconds")
        if self.vectorization != "async":
            async_only = "0 unless environment.vectorization is async"
            require(self.workers == 0, "environment.workers", self.workers, async_only)
            require(self.timeout == 0, "environment.timeout", self.timeout, async_only)
        _require_positive("environment.action_scale", self.action_scale)
        _require_plain("environment.kwargs", self.kwargs)
        require(
            all(re.fullmatch(r"[^:]+(:(mean|max|last))?", name) for name in self.metrics),
            "environment.metrics",
            self.metrics,
            "names, each alone or with :mean, :max or :last",
        )
        names = [name.partition(":")[0] for name in self.metrics]
        require(len(set(names)) == len(names), "environment.metrics", self.metrics, "names that stand once each")
        for name in names:
            require(not re.fullmatch(TAKEN, name), "environment.metrics", name, "a name that is not in use already")


@dataclass(frozen=True)
class PolicyConfig:
    """The policy network."""

    network: str = "auto"
    """Kind of policy: auto takes the MLP policy that fits the action space, gaussian_mlp or categorical_mlp, and for
    supervised tasks mlp; of a learner with a memory gaussian_gru or categorical_gru, and ..._lstm is another,
    as is categorical_tabular, with a memory for each state and action; gaussian_conv_gru, categorical_conv_gru and
    ..._conv_lstm have layers of convolution before the others, for observations that are pictures;
    my_module:MyNetwork takes a network from outside of the package."""
    hidden_sizes: tuple[int, ...] = (100, 100)
    """Units of each hidden layer; with a memory the last is the recurrent one, and of categorical_tabular the two are
    those of each memory and of their context."""
    head: Literal["linear", "per_state"] = field(default="linear", metadata=OF_ROLLOUTS)
    """Last layer of a network with a memory: linear, or per_state, one for each number of the environment's own
    observation, added up with these as weights: where they are one-hot, a layer for each state."""
    memory_steps: int = field(default=0, metadata=OF_ROLLOUTS)
    """Time steps that units of a recurrent layer remember for before training: log-uniform from 1 to this, about the
    length of a trial; 0 for what is usual, 1 of a GRU and e of an LSTM. What lasts at first is sooner learned to be
    kept."""
    picture: tuple[int, ...] = field(default=(), metadata=OF_ROLLOUTS)
    """Height, width and colours of the picture that an observation is, for networks with convolutions before a memory;
    empty for the shape of the environment's observation space, or what a family says whose observations are flat."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Nonlinearity of the hidden layers."""
    observation_scale: tuple[float, ...] = ()
    """Constant factor on each observation, in inverse units of it, so that the network sees numbers near 1; empty for
    none. Joint velocities of 10 rad/s saturate the first layer: scaled by 0.1 the half-cheetah learns far sooner. Those
    of an oracle may go on with factors on the numbers of its task."""
    initial_std: float = field(default=1.0, metadata=OF_ROLLOUTS)
    """Standard deviation of the Gaussian policy at the start, in policy units."""
    min_std: float = field(default=1e-6, metadata=OF_ROLLOUTS)
    """Lower bound of the standard deviation, in policy units."""

    def __post_init__(self) -> None:
        sizes, scale = self.hidden_sizes, self.observation_scale
        require(all(size >= 1 for size in sizes), "policy.hidden_sizes", sizes, "at least 1 each")
        require(all(size <= 10**6 for size in sizes), "policy.hidden_sizes", sizes, f"at most {10**6} each")
        require(len(sizes) <= 100, "policy.hidden_sizes", sizes, "at most 100 layers")
        require(all(abs(x) <= HUGE for x in scale), "policy.observation_scale", scale, f"finite, at most {HUGE} each")
        _require_count("policy.memory_steps", self.memory_steps, 0, 10**6)
        picture = self.picture
        shaped = len(picture) in (0, 3) and all(1 <= size <= 10**6 for size in picture)
        require(shaped, "policy.picture", picture, f"three numbers in [1, {10**6}]: height, width, colours; or empty")
        _require_positive("policy.min_std", self.min_std)
        require(self.initial_std >= self.min_std, "policy.initial_std", self.initial_std, "at least policy.min_std")
        _require_positive("policy.initial_std", self.initial_std)


@dataclass(frozen=True)
class SamplingConfig:
    """How much experience one meta-iteration collects, and how advantages are estimated from it."""

    tasks: int = 20
    """Tasks in the meta-batch (M)."""
    rollouts: int = field(default=20, metadata=OF_ROLLOUTS)
    """Rollouts per task and adaptation step (B); of a learner with a memory, trials per task."""
    episodes: int = field(default=2, metadata=OF_ROLLOUTS)
    """Episodes of a trial, through which a memory lasts; learners without one do not read it."""
    curriculum: tuple[int, ...] = field(default=(), metadata=OF_ROLLOUTS)
    """Episodes of the shorter trials that training begins with, such as [10,30] before trials of 100."""
    curriculum_iterations: tuple[int, ...] = field(default=(), metadata=OF_ROLLOUTS)
    """Meta-iterations at each of these lengths."""
    reward_info: str = field(default="", metadata=OF_ROLLOUTS)
    """Number of the environment's info that trials are learned from in place of the reward, such as expected_reward,
    which has less noise and takes a simulator's knowledge; empty for the reward. A memory sees the reward, and
    evaluations tell it; learners without a memory do not read this."""
    predicted_infos: tuple[str, ...] = field(default=(), metadata=OF_ROLLOUTS)
    """Numbers of the environment's info that a memory learns to tell besides, such as [target_ahead,target_aside] of
    mazes: knowledge of a simulator in training alone; learners without a memory do not read this."""
    discount: float = field(default=0.99, metadata=OF_ROLLOUTS)
    """Discount factor of the return."""
    gae_lambda: float = field(default=1.0, metadata=OF_ROLLOUTS)
    """Lambda of generalised advantage estimation; 1 is the discounted return minus the baseline."""

    def __post_init__(self) -> None:
        _require_count("sampling.tasks", self.tasks, 1)
        _require_count("sampling.rollouts", self.rollouts, 1)
        _require_count("sampling.episodes", self.episodes, 1)
        shorter = all(1 <= episodes < self.episodes for episodes in self.curriculum)
        require(
            shorter,
            "sampling.curriculum",
            self.curriculum,
            f"at least 1 and below sampling.episodes, {self.episodes}, each",
        )
        names = self.predicted_infos
        require(
            all(names) and len({*names}) == len(names), "sampling.predicted_infos", names, "names that stand once each"
        )
        iterations, wanted = self.curriculum_iterations, f"{len(self.curriculum)} numbers, one for each in curriculum"
        require(len(iterations) == len(self.curriculum), "sampling.curriculum_iterations", iterations, wanted)
        require(all(1 <= n <= LARGEST for n in iterations), "sampling.curriculum_iterations", iterations, "at least 1")
        require(0 <= self.discount <= 1, "sampling.discount", self.discount, "in [0, 1]")
        require(0 <= self.gae_lambda <= 1, "sampling.gae_lambda", self.gae_lambda, "in [0, 1]")

    def episodes_at(self, iteration: int) -> int:
        """Episodes of a trial in a meta-iteration, from 0."""
        for episodes, iterations in zip(self.curriculum, self.curriculum_iterations, strict=True):
            if iteration < iterations:
                return episodes
            iteration -= iterations
        return self.episodes


MEASURED_AT_ONCE = 20
"""Tasks that an evaluation adapts to at a time by default."""


@dataclass(frozen=True)
class DataConfig:
    """Examples of supervised tasks."""

    shots: int = field(default=10, metadata=OF_EXAMPLES)
    """Examples of a task that it adapts on, of each class where there are classes."""
    queries: int = field(default=10, metadata=OF_EXAMPLES)
    """Further examples of a task that the meta-update takes the loss on, of each class where there are classes."""
    updates: int = field(default=100, metadata=OF_EXAMPLES)
    """Meta-updates of one meta-iteration, each on new tasks; a row of the metrics tells of all of them."""
    chunk: int = field(default=0, metadata=OF_EXAMPLES)
    """Tasks that each process adapts to at a time; 0 for all of a meta-batch, and for 20 in an evaluation. Fewer take
    less memory, and change the last digits alone."""

    def __post_init__(self) -> None:
        _require_count("data.shots", self.shots, 1, 10**8)
        _require_count("data.queries", self.queries, 1, 10**8)
        _require_count("data.updates", self.updates, 1, 10**6)
        _require_count("data.chunk", self.chunk, 0, 10**8)

    @property
    def measured_at_once(self) -> int:
        """Tasks that each process adapts to at a time where nothing is learned: an evaluation may have thousands."""
        return self.chunk or MEASURED_AT_ONCE


@dataclass(frozen=True)
class AdaptationConfig:
    """The inner loop: how a policy adapts to one task."""

    steps: int = 1
    """Gradient steps on a task (K), each on fresh rollouts; of supervised tasks all on the same examples."""
    step_size: float = 0.1
    """Step size of the inner gradient step (alpha)."""
    inner_loss: Literal["likelihood_ratio", "log_prob", "dice", "squared_error", "cross_entropy"] = "likelihood_ratio"
    """Inner loss. Of supervised tasks squared_error or cross_entropy. Of rollouts a surrogate: all have the policy
    gradient as their gradient, and differ in the second derivative; log_prob (the MAML paper's code) leaves out the
    outer product of the score, likelihood_ratio keeps it within each time step, dice across the time steps of a rollout
    too, which is unbiased and noisy."""

    def __post_init__(self) -> None:
        _require_count("adaptation.steps", self.steps, 1, 1000)
        _require_not_negative("adaptation.step_size", self.step_size)


@dataclass(frozen=True)
class TrustRegionConfig:
    """The outer step: TRPO on the adapted policies."""

    max_kl: float = 0.01
    """Limit of the mean KL divergence of the adapted policies, in nats."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations at most."""
    cg_damping: float = 1e-5
    """Multiple of the identity added to the curvature."""
    preconditioner: Literal["none", "kronecker"] = field(default="none", metadata=OF_ROLLOUTS)
    """Approximate inverse of the curvature that conjugate gradient starts each iteration from: kronecker is factored by
    layers (K-FAC), for the multilayer perceptron; then 4 iterations come further than 20 without."""
    cg_tolerance: float = 1e-10
    """Squared residual norm, relative to the squared gradient norm, at which conjugate gradient stops."""
    backtrack_ratio: float = 0.8
    """Factor between one step length of the line search and the next."""
    max_backtracks: int = 15
    """Step lengths that the line search tries before it gives the step up."""
    curvature_fraction: float = 1.0
    """Share of the time steps, drawn at random each iteration, that curvature products use; 1 is exact. Gradient,
    loss and KL always use all of them."""

    def __post_init__(self) -> None:
        _require_positive("trust_region.max_kl", self.max_kl)
        _require_count("trust_region.cg_iterations", self.cg_iterations, 1)
        _require_not_negative("trust_region.cg_damping", self.cg_damping)
        require(0 <= self.cg_tolerance < 1, "trust_region.cg_tolerance", self.cg_tolerance, "in [0, 1)")
        require(0 < self.backtrack_ratio < 1, "trust_region.backtrack_ratio", self.backtrack_ratio, "in (0, 1)")
        _require_count("trust_region.max_backtracks", self.max_backtracks, 1)
        fraction = self.curvature_fraction
        require(0 < fraction <= 1, "trust_region.curvature_fraction", fraction, "in (0, 1]")


@dataclass(frozen=True)
class AdamConfig:
    """The outer step: Adam on the clipped surrogate of the adapted policies, several steps on the same data."""

    rate: float = 1e-3
    """Step length."""
    final_rate: float = 0.0
    """Step length to which it falls along a half cosine over `adam.anneal_updates`; 0 for the same throughout."""
    anneal_updates: int = 0
    """Meta-updates over which the step length falls to `adam.final_rate`; afterwards it stays."""
    updates: int = 0
    """Steps on the data of one meta-iteration; 0 takes those usual for the learner: 1 of imaml and emaml, 12 of
    rl2, 5 of others."""
    clip: float = field(default=0.3, metadata=OF_ROLLOUTS)
    """How far the ratio of a policy to the one that sampled may leave 1 before it is of no more use (PPO's epsilon)."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """Decay of the averages of gradient and squared gradient."""
    epsilon: float = 1e-8
    """Added to the root of the average squared gradient."""
    longest_gradient: float = 0.0
    """Norm to which longer gradients are scaled down; 0 for none."""
    judge: bool = True
    """Whether loss and KL are taken once more after the steps: they tell what became of them, and refuse steps after
    which a number is not finite."""

    def __post_init__(self) -> None:
        _require_positive("adam.rate", self.rate)
        _require_not_negative("adam.final_rate", self.final_rate)
        _require_count("adam.anneal_updates", self.anneal_updates, 0)
        both = (self.final_rate > 0) == (self.anneal_updates > 0)
        require(both, "adam.anneal_updates", self.anneal_updates, "positive where adam.final_rate is, and else 0")
        _require_count("adam.updates", self.updates, 0, 10**4)
        _require_positive("adam.clip", self.clip)
        in_range = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(in_range, "adam.betas", self.betas, "two numbers in [0, 1)")
        _require_positive("adam.epsilon", self.epsilon)
        _require_not_negative("adam.longest_gradient", self.longest_gradient)


@dataclass(frozen=True)
class SgdConfig:
    """The outer step: gradient descent on the surrogate of the adapted policies, one step a meta-iteration."""

    rate: float = 0.1
    """Step length."""
    momentum: float = 0.0
    """Share of the step before that is added."""

    def __post_init__(self) -> None:
        _require_positive("sgd.rate", self.rate)
        require(0 <= self.momentum < 1, "sgd.momentum", self.momentum, "in [0, 1)")


@dataclass(frozen=True)
class EvalConfig:
    """Held-out evaluation during training."""

    every: int = 0
    """Meta-iterations between evaluations; 0 never evaluates. The best checkpoint is the one that adapts best in these
    evaluations, or without any the one with the best return after adaptation in training."""
    tasks: int = 40
    """Held-out tasks, drawn once per run from a stream of their own."""
    rollouts: int = field(default=20, metadata=OF_ROLLOUTS)
    """Rollouts per task and gradient step."""
    shots: int = field(default=0, metadata=OF_EXAMPLES)
    """As data.shots; 0 for the same number."""
    queries: int = field(default=0, metadata=OF_EXAMPLES)
    """As data.queries; 0 for the same number."""
    min_steps: int = field(default=0, metadata=OF_ROLLOUTS)
    """Environment steps per task and gradient step; where episodes end early, rollouts are added until there are as
    many."""
    steps: int = 3
    """Gradient steps on each task."""
    step_size_schedule: Literal["halve", "constant"] = "halve"
    """Step size of gradient steps beyond those of training: half of it, as in the MAML paper, or the same."""

    def __post_init__(self) -> None:
        _require_count("eval.every", self.every, 0)
        _require_count("eval.tasks", self.tasks, 1)
        _require_count("eval.rollouts", self.rollouts, 1)
        _require_count("eval.shots", self.shots, 0, 10**8)
        _require_count("eval.queries", self.queries, 0, 10**8)
        _require_count("eval.min_steps", self.min_steps, 0)
        _require_count("eval.steps", self.steps, 1, 1000)


@dataclass(frozen=True)
class VideoConfig:
    """Films during training, of a held-out task before and after gradient steps."""

    every: int = field(default=0, metadata=OF_ROLLOUTS)
    """Meta-iterations between films; 0 makes none."""

    def __post_init__(self) -> None:
        _require_count("video.every", self.every, 0)


@dataclass(frozen=True)
class CheckpointConfig:
    """What a run leaves behind to be resumed and used."""

    every: int = 1
    """Meta-iterations between checkpoints."""
    keep: int = 2
    """Most recent checkpoints kept, besides the best."""

    def __post_init__(self) -> None:
        _require_count("checkpoint.every", self.every, 1)
        _require_count("checkpoint.keep", self.keep, 1)


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    env: str = "mamlrl/Navigation2D-v0"
    """Task family: the short name of a shipped configuration (cheetah-vel, sinusoid), or a Gymnasium id with its module
    (my_package.my_module:MyTasks-v0)."""
    name: str = field(default="", metadata=IS_NO_METHOD)
    """Name of the run's settings, the folder under runs/; empty takes the short name or id given as env."""
    learner: str = "maml"
    """Meta-learner: a row of mamlrl.learners.LEARNERS, or my_module:MyLearner from outside of the package."""
    learner_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the learner's own (docs/learners.md)."""
    outer: Literal["auto", "trust_region", "adam", "sgd"] = "auto"
    """How the meta-update moves what is meta-learned; auto takes what the learner is published with. A run stores
    which."""
    seed: int = field(default=1, metadata=IS_NO_METHOD)
    """Seed of every random stream of the run."""
    start_from: str = ""
    """Run folder or checkpoint whose policy training begins with, of any learner with the same parameters; empty for a
    random one."""
    iterations: int = field(default=100, metadata=HOW_IT_RUNS)
    """Meta-iterations."""
    device: str = field(default="cpu", metadata=HOW_IT_RUNS)
    """Device that the policies and the meta-update live on: cpu, cuda, or one of several such as cuda:1."""
    threads: int = field(default=0, metadata=HOW_IT_RUNS)
    """Threads of the simulation and of tensor arithmetic; 0 takes all processors, as many as there are at the start."""
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    trust_region: TrustRegionConfig = field(default_factory=TrustRegionConfig)
    adam: AdamConfig = field(default_factory=AdamConfig)
    sgd: SgdConfig = field(default_factory=SgdConfig)
    eval: EvalConfig = field(default_factory=EvalConfig, metadata=IS_NO_METHOD)
    video: VideoConfig = field(default_factory=VideoConfig, metadata=HOW_IT_RUNS)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=HOW_IT_RUNS)

    def __post_init__(self) -> None:
        is_id = re.fullmatch(r"([^\W\d]\w*(\.[^\W\d]\w*)*:)?[^\s:]+", self.env)
        require(bool(is_id), "env", self.env, "a Gymnasium id, or module:Id-v0 with the module's dotted name")
        _require_word("env", self.env, "printable and at most 200 characters long")
        require(not re.search(r"[/\\]|^\.", self.name), "name", self.name, "usable as a folder's name")
        _require_word("name", self.name, "usable as a folder's name")
        require(self.learner != "", "learner", self.learner, "a learner's name")
        _require_plain("learner_settings", self.learner_settings)
        _require_word("learner", self.learner, "a learner's name")
        require(bool(re.fullmatch(r"cpu|cuda(:\d{1,3})?", self.device)), "device", self.device, "cpu or cuda")
        _require_plain("start_from", self.start_from)
        _require_count("seed", self.seed, 0, 2**63 - 1)
        _require_count("iterations", self.iterations, 1)
        _require_count("threads", self.threads, 0, 4096)
