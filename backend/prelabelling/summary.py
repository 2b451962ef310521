"""What became of the tasks of a run: counts, and failures by kind."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SHOWN_TASKS = 3  # of each kind of failure
# What differs between failures of one kind: addresses, quoted texts, and numbers that are not an HTTP status.
_SPECIFIC = re.compile(r"""https?://\S+|/[\w%./-]+\S*|"[^"]*"|(?<!HTTP )\b\d+\b""")


@dataclass
class Summary:
    """Counts of tasks.

    Attributes:
        predicted: With a new prediction that has masks.
        nothing_found: With a new prediction without masks.
        already_done: Skipped: there is a prediction for the same questions by the same version.
        labelled: Skipped: somebody has labelled them.
        failures: One entry for each kind: an example of the message, and the tasks.
        unknown: Words of the prompts that the model does not know.
    """

    predicted: int = 0
    nothing_found: int = 0
    already_done: int = 0
    labelled: int = 0
    failures: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)

    @property
    def failed(self) -> int:
        """How many tasks have failed."""
        return sum(len(tasks) for _, tasks in self.failures.values())

    def add_failure(self, task: int, message: str) -> None:
        """Count a task that has failed."""
        kind = _SPECIFIC.sub("", message)
        self.failures.setdefault(kind, (message, []))[1].append(task)

    def lines(self) -> list[str]:
        """Return the summary as text, the most frequent failure first."""
        lines = [
            f"{self.predicted} predicted, {self.nothing_found} with nothing found, "
            f"{self.already_done + self.labelled} skipped, {self.failed} failed."
        ]
        if self.already_done:
            lines.append(
                f"  skipped, {self.already_done}: predicted before by this version for the same prompts "
                "(--again asks them anyway)"
            )
        if self.labelled:
            lines.append(f"  skipped, {self.labelled}: labelled already (--only-unlabelled)")
        for message, tasks in sorted(self.failures.values(), key=lambda failure: -len(failure[1])):
            named = ", ".join(map(str, sorted(tasks)[:SHOWN_TASKS])) + (
                ", ..." if len(tasks) > SHOWN_TASKS else ""
            )
            lines.append(f"  failed, {len(tasks)} (task {named}): {message}")
        if self.unknown:
            words = ", ".join(sorted(self.unknown))
            lines.append(
                f"  The model was never taught: {words}; that nothing was found for it says nothing."
            )
        return lines
