"""How long a launch waits for whom, and how often it looks: the only place where its seconds stand.

What users set themselves, `hang_timeout` and `termination_grace`, are parameters of the run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Patience:
    """All in seconds."""

    poll_s: float = 0.1
    """Between two looks at mpirun, at the logs that are shown, and at processes that are to end."""
    ranks_poll_s: float = 0.5
    """Between two looks at the records that ranks leave."""
    growth_poll_s: float = 1.0
    """Between two looks at the files that grow while a job gets on."""
    start_up_s: float = 1800.0
    """Silence of a training before its first step that is no hang yet: a large network is compiled for minutes."""
    cards_poll_s: float = 0.5
    """Between two looks at cards that others hold."""
    leave_at_once_s: float = 1.0
    """What processes get to leave after SIGTERM before they are killed."""
    failure_grace_s: float = 2.0
    """What mpirun gets to end the other ranks by itself: it sends SIGTERM, and SIGKILL a second later."""
    leave_grace_s: float = 5.0
    """What mpirun gets to leave after its last rank has."""
    kill_s: float = 15.0
    """After SIGKILL only a process in an uninterruptible system call stays, on a network drive that hangs, say."""
    stacks_s: float = 3.0
    """What ranks get to say where they stand."""
    hosts_s: float = 90.0
    """What all hosts together get to be looked at."""
    meeting_s: float = 20.0
    """What the other hosts get to meet the first, once each has started."""

    @property
    def ending_s(self) -> float:
        """What ending all processes takes at most, with a second of grace."""
        return self.kill_s + 5


PATIENT = Patience()
