"""Settings and versions of runs as tables: what differs between them, then what they share, by what it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from retorq.envs import atari, minatar, toys
from retorq.envs.options import ATARI_FIELDS, GYM_FIELDS, MINATAR_FIELDS, TOY_FIELDS, EnvOptions
from retorq.report.curves import flatten, settings_text
from retorq.report.runs import Run
from retorq.report.tables import table
from retorq.types import UserError

PARTS = {"config": "Agent and training", "options": "Environment"}
"""Records in a configuration, in the order in which they are shown; the rest comes last."""


def settings_tables(runs: Sequence[Run], part: str = "config") -> str:
    """Settings (``part="config"``) or versions of all runs: first what differs, then what they share."""
    records = [_record(run, part) for run in runs]
    keys = list(dict.fromkeys(key for record in records for key in record))
    if not keys:
        return '<p class="empty">None stored.</p>'
    same = [key for key in keys if len({record.get(key) for record in records}) == 1]
    parts = []
    if len(same) < len(keys):
        head = ['<th scope="col">differs</th>', *(f'<th scope="col">{escape(run.name)}</th>' for run in runs)]
        rows = [
            f'<tr><th scope="row">{escape(key)}</th>'
            + "".join(f"<td>{escape(record.get(key, '—'))}</td>" for record in records)
            + "</tr>"
            for key in keys
            if key not in same
        ]
        parts.append(table(head, rows, "settings"))
    parts += _shared({key: records[0][key] for key in same}, len(runs) > 1)
    return "".join(parts)


def _shared(found: Mapping[str, str], several: bool) -> list[str]:
    """Settings that all runs have, in a card with a heading for each record that they come from."""
    kinds = {key: key.partition(".")[0] if key.partition(".")[0] in PARTS else "" for key in found}
    cards = []
    for kind in sorted(set(kinds.values()), key=lambda kind: [*PARTS, ""].index(kind)):
        title = PARTS.get(kind, "Run" if len(set(kinds.values())) > 1 else "")
        items = "".join(
            f"<div><dt>{escape(key.removeprefix(f'{kind}.') if kind else key)}</dt><dd>{escape(value)}</dd></div>"
            for key, value in found.items()
            if kinds[key] == kind
        )
        note = ", the same in all runs" if several else ""
        head = f"<h3>{title}{note}</h3>" if title or note else ""
        cards.append(f'<div class="card facts">{head}<dl>{items}</dl></div>')
    return cards


def _record(run: Run, part: str) -> dict[str, str]:
    """A run's record as text, without options of its environment that can have no effect there."""
    record = getattr(run, part)
    options, environment = record.get("options"), record.get("environment")
    if part != "config" or not isinstance(options, Mapping):
        return {key: settings_text(value) for key, value in flatten(record)}
    known = isinstance(environment, Mapping)  # older runs wrote down what was asked for alone
    used, defaults = environment if known else _options_of(run.env), EnvOptions()
    asked = {key: value for key, value in options.items() if key in used or value != getattr(defaults, key, None)}
    shown = {key: value for key, value in record.items() if key != "environment"}
    shown["options"] = asked | dict(environment if known else {})
    return {key: settings_text(value) for key, value in flatten(shown)}


def _options_of(env: str) -> frozenset[str]:
    """The options that an environment of this name can use."""
    if env in toys.names():
        return TOY_FIELDS
    try:
        if env.startswith("ALE/") or atari.rom_of(env) is not None:
            return ATARI_FIELDS
        if minatar.game_of(env) is not None:
            return MINATAR_FIELDS
    except UserError:
        pass
    return GYM_FIELDS
