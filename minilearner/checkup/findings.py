"""What a checkup found: `Finding` for each problem, and `Checkup` for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from minilearner.errors import plural
from minilearner.glance import AtAGlance, Glance

__all__ = ["Checkup", "Finding", "NotCheckedError", "Severity"]

Severity: TypeAlias = Literal["error", "warning", "note"]
"""How bad a finding is. With an error training fails, with a warning it goes badly, and a note is good to know."""

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class NotCheckedError(Exception):
    """A check cannot be made. The message gives the reason, in a few words."""


@dataclass(frozen=True)
class Finding:
    """One thing that `learn.check()` noticed.

    Attributes:
        check: which check found it, such as "labels".
        severity: "error", "warning" or "note".
        message: what was found.
        advice: the way out.
        values: the numbers behind it, by their names.
    """

    check: str
    severity: Severity
    message: str
    advice: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as data that JSON can hold."""
        return {**vars(self), "values": dict(self.values)}


@dataclass(frozen=True, repr=False)
class Checkup(AtAGlance):
    """The result of `learn.check()`. It shows itself as a list in a terminal, and as a table in a notebook.

    Attributes:
        findings: what was found, the worst first. The checkup itself is a sequence of them.
        passed: the checks that found nothing.
        not_checked: the checks that could not be made, each with the reason.
        seconds: how long it took.
    """

    findings: tuple[Finding, ...]
    passed: tuple[str, ...] = ()
    not_checked: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        worst_first = sorted(self.findings, key=lambda finding: _SEVERITIES.index(finding.severity))
        object.__setattr__(self, "findings", tuple(worst_first))

    @property
    def ok(self) -> bool:
        """Whether nothing was found that makes training fail or go badly. There may be notes."""
        return self.worst in (None, "note")

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding. None if nothing was found."""
        return self.findings[0].severity if self.findings else None

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, place: int) -> Finding:
        """Returns the finding at a place, the worst first."""
        return self.findings[place]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as data that JSON can hold."""
        return {
            "ok": self.ok,
            "worst": self.worst,
            "findings": [finding.to_dict() for finding in self.findings],
            "passed": list(self.passed),
            "not_checked": dict(self.not_checked),
            "seconds": self.seconds,
        }

    def glance(self) -> Glance:
        """Returns the findings with their ways out, the worst first."""
        facts: dict[str, str] = {}
        for finding in self.findings:
            name = f"{finding.severity}, {finding.check}"
            facts[name] = " ".join(filter(None, [facts.get(name), finding.message, finding.advice]))
        counts = [(severity, [f.severity for f in self.findings].count(severity)) for severity in _SEVERITIES]
        found = ", ".join(plural(n, severity) for severity, n in counts if n) or "nothing to report"
        after = [f"  fine: {', '.join(self.passed)}"] if self.passed else []
        after += [f"  not checked: {check}, because {reason}" for check, reason in self.not_checked.items()]
        return Glance(f"{type(self).__name__} in {self.seconds:.1f} s: {found}", facts, after=after)
