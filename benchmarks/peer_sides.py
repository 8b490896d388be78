"""Agents of other libraries as turns of benchmarks/peers.py; runs in the peers' own environment (.venv-peers).

Every side gets the same environments (peer_common.py), network, optimizer, batch, replay ratio and exploration, and
keeps its experience in its own usual way. Versions are in requirements-peers.txt.

What had to be adapted: PFRL 0.4.0 imports the old ``gym``, which warns about numpy 2 and is not used otherwise; its
loop is written out here, because its own training function expects environments of ``gym``. Tianshou 2.0.1 is driven
by its collector and ``update``, without its trainer, whose test phases would be in the way; it clips no gradients in
these algorithms, all others clip their norm to 10. Nothing else is patched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peer_common import (
    ACTION_SAMPLES,
    ADAM_EPSILON,
    ALPHA,
    ATOMS,
    BATCH,
    BETA,
    CLIP,
    COSINES,
    EPSILON,
    GAMMA,
    LEARNING_RATE,
    QUANTILES,
    RATIO,
    SAMPLES,
    SIGMA,
    STEPS_AHEAD,
    TARGET_SAMPLES,
    Clock,
    Plan,
    Turn,
    counted,
    epsilon,
    make_env,
    torso,
)


def sb3(plan: Plan, algorithm: str) -> Turn:
    """Stable-Baselines3's DQN, or QR-DQN of its contributions."""
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv
    from torch import nn

    clock = Clock(plan)

    class Features(BaseFeaturesExtractor):
        def __init__(self, space: Any) -> None:
            super().__init__(space, plan.hidden)
            convolutions, size = torso(plan, space.shape[0])
            self.layers = nn.Sequential(convolutions, nn.Linear(size, plan.hidden), nn.ReLU())

        def forward(self, pixels: Any) -> Any:
            return self.layers(pixels)

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return clock.tick(self.num_timesteps, self.model._n_updates)

    env = DummyVecEnv([lambda i=i: counted(make_env(plan, i), clock) for i in range(plan.environments)])  # type: ignore[misc]
    every = max(1, BATCH // RATIO // plan.environments)  # vector steps between trainings
    of_policy: dict[str, Any] = {"features_extractor_class": Features, "net_arch": []}
    of_policy["optimizer_kwargs"] = {"eps": ADAM_EPSILON}
    if algorithm == "dqn":
        kind, version = stable_baselines3.DQN, stable_baselines3.__version__
    else:
        import sb3_contrib

        kind, version = sb3_contrib.QRDQN, sb3_contrib.__version__
        of_policy["n_quantiles"] = QUANTILES
    model = kind(
        "CnnPolicy",
        env,
        buffer_size=plan.capacity,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        learning_starts=plan.warmup,
        batch_size=BATCH,
        train_freq=(every, "step"),
        gradient_steps=max(1, every * plan.environments * RATIO // BATCH),
        gamma=GAMMA,
        learning_rate=LEARNING_RATE,
        max_grad_norm=CLIP,
        target_update_interval=plan.target_steps,
        exploration_initial_eps=1.0 if plan.decay else EPSILON,
        exploration_fraction=(plan.decay + plan.warmup) / plan.steps if plan.decay else 1.0,
        exploration_final_eps=EPSILON,
        policy_kwargs=of_policy,
        device="cpu",
        seed=plan.seed,
    )
    model.learn(total_timesteps=plan.steps, callback=Watch())
    network = model.q_net if algorithm == "dqn" else model.quantile_net
    return clock.turn(sum(p.numel() for p in network.parameters()), version)


def tianshou(plan: Plan, algorithm: str) -> Turn:
    """Tianshou's IQN or Rainbow."""
    import numpy as np
    import tianshou as library
    import torch
    from tianshou.algorithm.modelfree.c51 import C51Policy
    from tianshou.algorithm.modelfree.iqn import IQN, IQNPolicy
    from tianshou.algorithm.modelfree.rainbow import RainbowDQN
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, PrioritizedVectorReplayBuffer, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.utils.net.common import ActionReprNetWithVectorOutput
    from tianshou.utils.net.discrete import ImplicitQuantileNetwork, NoisyLinear
    from tianshou.utils.torch_utils import policy_within_training_step, torch_train_mode
    from torch import nn

    clock = Clock(plan)
    env = DummyVectorEnv([lambda i=i: counted(make_env(plan, i), clock) for i in range(plan.environments)])  # type: ignore[misc]
    outermost = make_env(plan, 0)  # its own lists of spaces are those of the innermost environments
    space, actions = outermost.observation_space, outermost.action_space

    class Features(ActionReprNetWithVectorOutput):  # type: ignore[type-arg]
        def __init__(self) -> None:
            convolutions, size = torso(plan, space.shape[0])
            super().__init__(size)
            self.layers = convolutions

        def forward(self, obs: Any, state: Any = None, info: Any = None) -> Any:
            return self.layers(torch.as_tensor(obs, dtype=torch.float32) / 255.0), state

    class Distribution(nn.Module):
        """Dueling noisy streams to the probabilities of 51 values."""

        def __init__(self) -> None:
            super().__init__()
            self.features = Features()
            size = self.features.get_output_dim()

            def stream(outputs: int) -> nn.Module:
                first = NoisyLinear(size, plan.hidden, SIGMA)
                return nn.Sequential(first, nn.ReLU(), NoisyLinear(plan.hidden, outputs, SIGMA))

            self.value, self.advantage = stream(ATOMS), stream(int(actions.n) * ATOMS)

        def forward(self, obs: Any, state: Any = None, info: Any = None) -> Any:
            x, _ = self.features(obs)
            advantage = self.advantage(x).view(-1, int(actions.n), ATOMS)
            value = self.value(x).view(-1, 1, ATOMS)
            return (value + advantage - advantage.mean(1, keepdim=True)).softmax(-1), state

    optimizer = AdamOptimizerFactory(lr=LEARNING_RATE, eps=ADAM_EPSILON)  # it clips no gradients in these algorithms
    updates_of_target = plan.target_steps * RATIO // BATCH
    network: nn.Module
    learner: Any
    if algorithm == "iqn":
        network = ImplicitQuantileNetwork(
            preprocess_net=Features(), action_shape=[actions.n], hidden_sizes=[plan.hidden], num_cosines=COSINES
        )
        policy: Any = IQNPolicy(
            model=network,
            action_space=actions,
            sample_size=ACTION_SAMPLES,
            online_sample_size=SAMPLES,
            target_sample_size=TARGET_SAMPLES,
        )
        learner = IQN(
            policy=policy, optim=optimizer, gamma=GAMMA, num_quantiles=SAMPLES, target_update_freq=updates_of_target
        )
    else:
        network = Distribution()
        policy = C51Policy(model=network, action_space=actions, num_atoms=ATOMS)
        learner = RainbowDQN(
            policy=policy,
            optim=optimizer,
            gamma=GAMMA,
            n_step_return_horizon=STEPS_AHEAD,
            target_update_freq=updates_of_target,
        )
    kept: dict[str, Any] = {"buffer_num": plan.environments, "ignore_obs_next": True, "stack_num": plan.stack}
    kept["save_only_last_obs"] = plan.stack > 1
    if algorithm == "rainbow":
        buffer: Any = PrioritizedVectorReplayBuffer(plan.capacity, alpha=ALPHA, beta=BETA, weight_norm=True, **kept)
    else:
        buffer = VectorReplayBuffer(plan.capacity, **kept)
    np.random.seed(plan.seed)  # noqa: NPY002 (the library draws from it)
    torch.manual_seed(plan.seed)
    collector = Collector(policy, env, buffer, exploration_noise=True)
    collector.reset()
    steps = updates = 0
    going = True
    with policy_within_training_step(policy):
        while going:
            if algorithm == "iqn":
                policy.set_eps_training(epsilon(plan, steps))
            random = steps < plan.warmup
            collector.collect(n_step=plan.environments, random=random)
            steps += plan.environments
            with torch_train_mode(learner):
                while updates < (steps - plan.warmup) * RATIO // BATCH:
                    learner.update(buffer, sample_size=BATCH)
                    updates += 1
            going = clock.tick(steps, updates)
    # It keeps the noise itself as parameters, without a gradient.
    return clock.turn(sum(p.numel() for p in network.parameters() if p.requires_grad), library.__version__)


def pfrl(plan: Plan, algorithm: str) -> Turn:
    """PFRL's IQN."""
    from importlib.metadata import version

    import numpy as np
    import torch
    from pfrl import explorers, replay_buffers
    from pfrl import utils as helpers
    from pfrl.agents import IQN
    from pfrl.agents.iqn import CosineBasisLinear, ImplicitQuantileQFunction
    from pfrl.wrappers.atari_wrappers import LazyFrames
    from torch import nn

    assert algorithm == "iqn"
    clock = Clock(plan)
    environments = [counted(make_env(plan, i), clock) for i in range(plan.environments)]
    actions = int(environments[0].action_space.n)
    helpers.set_random_seed(plan.seed)
    convolutions, size = torso(plan, 4)
    network = ImplicitQuantileQFunction(
        psi=convolutions,
        phi=nn.Sequential(CosineBasisLinear(COSINES, size), nn.ReLU()),
        f=nn.Sequential(nn.Linear(size, plan.hidden), nn.ReLU(), nn.Linear(plan.hidden, actions)),
    )

    def explore() -> int:
        return int(np.random.randint(actions))  # noqa: NPY002 (the library draws from it)

    agent = IQN(
        network,
        torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, eps=ADAM_EPSILON),
        replay_buffers.ReplayBuffer(plan.capacity),
        gpu=None,
        gamma=GAMMA,
        explorer=explorers.LinearDecayEpsilonGreedy(
            1.0 if plan.decay else EPSILON, EPSILON, plan.decay + plan.warmup, explore
        ),
        replay_start_size=plan.warmup,
        target_update_interval=plan.target_steps,
        update_interval=BATCH // RATIO,
        batch_accumulator="mean",
        phi=lambda pixels: np.asarray(pixels, np.float32) / 255.0,
        minibatch_size=BATCH,
        max_grad_norm=CLIP,
        quantile_thresholds_N=SAMPLES,
        quantile_thresholds_N_prime=TARGET_SAMPLES,
        quantile_thresholds_K=ACTION_SAMPLES,
    )
    last: list[list[np.ndarray]] = [[] for _ in environments]

    def lazy(index: int, pixels: np.ndarray, fresh: bool) -> Any:
        """Stacked images that share their frames with the step before, as the library's own wrapper keeps them."""
        if plan.stack == 1:
            return pixels
        frames = [pixels[i : i + 1].copy() for i in range(4)] if fresh else [*last[index][1:], pixels[3:].copy()]
        last[index] = frames
        return LazyFrames(frames, stack_axis=0)

    seen = [lazy(i, env.reset(seed=plan.seed * 1_000 + i)[0], True) for i, env in enumerate(environments)]
    steps, going = 0, True
    while going:
        results = [env.step(action) for env, action in zip(environments, agent.batch_act(seen), strict=True)]
        after = [lazy(i, result[0], False) for i, result in enumerate(results)]
        over, cut = [r[2] for r in results], [r[3] for r in results]
        rewards = [float(np.clip(r[1], -1, 1)) for r in results]
        agent.batch_observe(after, rewards, over, cut)
        for i, env in enumerate(environments):
            if over[i] or cut[i]:
                after[i] = lazy(i, env.reset()[0], True)
        seen = after
        steps += plan.environments
        going = clock.tick(steps, agent.optim_t)
    return clock.turn(sum(p.numel() for p in network.parameters()), version("pfrl"))


SIDES: dict[str, tuple[Callable[[Plan, str], Turn], str]] = {
    "sb3_dqn": (sb3, "dqn"),
    "sb3_qr_dqn": (sb3, "qr_dqn"),
    "tianshou_iqn": (tianshou, "iqn"),
    "tianshou_rainbow": (tianshou, "rainbow"),
    "pfrl_iqn": (pfrl, "iqn"),
}
