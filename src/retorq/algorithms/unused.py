"""Settings that do nothing beside the others: told to whoever asks for them, and silent where a preset has them."""

from __future__ import annotations

from typing import Any

from retorq.algorithms.settings import Basic, LadderEpsilon, LinearEpsilon, ManyLearners, Recurrent, Settings
from retorq.types import EnvSpec

OF_MEMORY = ("memory_size", "sequences", "start_state", "burn_in", "state_period")
OF_LADDERS = ("epsilon_start", "epsilon_exponent", "epsilon_fraction", "epsilon_steps")


def unused(config: Basic, spec: EnvSpec, *, pool: str = "local") -> dict[str, str]:
    """Why a setting does nothing, and what to do about it, by its name; ``pool`` is where acting happens."""
    found: dict[str, str] = {}

    def add(why: str, remedy: str, **names: Any) -> None:
        for name, harmless in names.items():
            if getattr(config, name) != harmless:
                found[name] = f"{why}; {remedy} or leave {name} out"

    if isinstance(config, Recurrent):
        if config.memory == "none":
            add("memory is none, and it belongs to a memory", "set memory to lstm", **dict.fromkeys(OF_MEMORY))
        elif not config.rows_before:
            why = f"start_state is {config.start_state!r}, which burns nothing in"
            add(why, f"set start_state to {_burnt(config.start_state)}", burn_in=0)
        if config.draw == "walk":
            add("start_state is 'whole', which walks whole games", "set start_state to zero or stored", sequences=None)
        if config.prioritized and config.sequence_length == 1:
            why = "sequence_length is 1, and the largest of one error is their mean"
            longer = (
                "set " + ("memory to lstm and " if config.memory == "none" else "") + "sequence_length to 2 or more"
            )
            add(why, longer, priority_eta=None)
    if isinstance(config, LadderEpsilon) and config.num_envs == 1:
        why = "num_envs is 1, which has no ladder of epsilons"
        add(why, "set num_envs to 2 or more", **dict.fromkeys(OF_LADDERS))
        why = f"num_envs is 1, whose epsilon falls to {config.final_alone:g}"
        add(why, "set num_envs to 2 or more", epsilon_final=config.final_alone)
    elif isinstance(config, LinearEpsilon | LadderEpsilon) and config.epsilon_start == config.epsilon_final:
        why = f"epsilon_start and epsilon_final are both {config.epsilon_final:g}, so nothing comes down"
        name = "epsilon_fraction" if isinstance(config, LadderEpsilon) else "epsilon_steps"
        add(why, "set them apart", **{name: None})
    if isinstance(config, Settings) and not any(leaf.kind == "image" for leaf in spec.observation.values()):
        add(f"{spec.id} shows no image", "choose another environment", torso="auto", center_images=False)
    if isinstance(config, ManyLearners):
        why = "every bundle takes the servers' weights before every round"
        add(why, "choose an agent with one learner", publish_period=1)
    elif config.precision == "fp32" and pool == "local":
        why = "precision is fp32 and pool local, where the actor shares the learner's weights"
        add(why, "set precision to bf16, pool to process,", publish_period=1)
    return found


def _burnt(start_state: str) -> str:
    return f"{'zero' if start_state.startswith('zero') else 'stored'}+burn_in"
