"""The task train, standing still after its first shard set until it is told to stop, or killed.

What ends it comes between two known steps then, however fast the machine is. The ranks agree on whether to stop after
every step, instead of about once a second: a stop comes with the next step.
"""

import signal
import sys
import time

from shardline.base.termination import StopRequest
from shardline.training import stopping
from shardline.training.saving import Saver
from tasks import train


class PausingSaver(Saver):
    """Saves, and waits."""

    def save(self, step: int, epoch: int, step_in_epoch: int) -> None:
        super().save(step, epoch, step_in_epoch)
        while not _told_to_stop():
            time.sleep(0.01)


def _told_to_stop() -> bool:
    noted = signal.getsignal(signal.SIGTERM)
    request = getattr(noted, "__self__", None)
    assert isinstance(request, StopRequest), f"expected that training listens to SIGTERM, found {noted}"
    return request.requested


def main() -> int:
    train.set_environment()
    from shardline.training import session

    session.Saver = PausingSaver
    stopping._SECONDS_BETWEEN = 0.0
    return train.main()


if __name__ == "__main__":
    sys.exit(main())
