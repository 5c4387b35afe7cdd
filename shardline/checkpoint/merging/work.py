"""The work of a merge, in steps that one process or several can take: write, digest, prove, record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from shardline.base.errors import ProofError
from shardline.base.progress import Meter
from shardline.base.workers import in_order, in_parallel
from shardline.checkpoint.formats.staging import StagedFile
from shardline.checkpoint.formats.tensor_io import Bytes, OpenCheckpoint
from shardline.checkpoint.merging.contents import pieces_of, read_contents, rest_of
from shardline.checkpoint.merging.execute import Assembler, BlockOfTensor, blocks_of
from shardline.checkpoint.merging.layout_digest import LayoutDigest
from shardline.checkpoint.merging.proof import Proven, prove
from shardline.checkpoint.merging.rank_identity import check_no_rank_is_anothers_copy
from shardline.checkpoint.merging.record import build_record
from shardline.checkpoint.merging.request import Prepared
from shardline.checkpoint.shards.plan import PlannedTensor
from shardline.checkpoint.shards.slice_digest import verified_digest
from shardline.checkpoint.strategy.boxes import whole


class Written(NamedTuple):
    """What was written of a tensor: `content` is its bytes from `start`."""

    tensor: str
    start: int
    content: Bytes


class MergeWork:
    """A prepared merge with its slices and its staged files open, and what was found so far."""

    def __init__(
        self, prepared: Prepared, files: Sequence[OpenCheckpoint], staged: Sequence[StagedFile], meter: Meter
    ) -> None:
        self.prepared, self.files, self.staged, self.meter = prepared, files, staged, meter
        self.input_digests: dict[int, str] = {}
        self.proven: dict[str, Proven] = {}
        self._output_digests: dict[int, str] = {}
        self._read_back: dict[str, str] = {}
        self._home = {name: file for file in staged for name in file.layout.extents}
        self._workers = prepared.request.workers

    def write(self, tensors: Sequence[PlannedTensor]) -> None:
        """Put `tensors` together and write them to their places."""
        self._begin("merging", tensors)
        in_parallel(self._block_writer(), blocks_of(tensors, self._workers), self._workers)

    def write_all(self) -> None:
        """Put all tensors together and write them, in the files' order, each file digested on the way."""
        files = dict(enumerate(self.staged))
        digests = {number: LayoutDigest(file.layout) for number, file in files.items() if not file.layout.has_crc}
        digest_of = {name: digest for number, digest in digests.items() for name in files[number].layout.extents}

        def digest(written: Written) -> None:
            if written.tensor in digest_of:
                digest_of[written.tensor].update(*written)

        places = {name: place for place, name in enumerate(self._home)}
        tensors = sorted(self.prepared.plan.tensors, key=lambda tensor: places[tensor.merged.name])
        self._begin("merging", tensors)
        in_order(self._block_writer(), digest, blocks_of(tensors, self._workers), self._workers)
        self._output_digests |= {number: digest.hexdigest() for number, digest in digests.items()}

    def _block_writer(self) -> Callable[[BlockOfTensor], Written]:
        request = self.prepared.request
        # The proof compares every replica; without it they are compared here.
        assembler = Assembler(self.files, not request.proof, request.allow_non_finite)

        def write(block: BlockOfTensor) -> Written:
            header = block.tensor.merged
            content = assembler.assemble(block).view(np.uint8)
            written = Written(header.name, block.box.flat_start(whole(header.shape)) * header.type.itemsize, content)
            self._home[header.name].write(*written)
            self.meter.advance(content.nbytes, tensors=int(block.is_last))
            return written

        return write

    def digest(self, ranks: Iterable[int], outputs: Iterable[int] = ()) -> None:
        """Digest the slices of `ranks`, against the manifest and their own checksums, and the staged `outputs`.

        Outputs that were digested while they were written are not read again. Of the others, each tensor is digested in
        the same reading, for `changed_tensors`; `ProofError` where anything but the tensors is not as it was written.
        """

        def digest_input(rank: int) -> None:
            self.input_digests[rank] = verified_digest(self.files[rank], rank, self.prepared.slices.shard_set)

        def digest_output(number: int) -> None:
            file = self.staged[number]
            contents = read_contents(file.path, pieces_of(file.layout))
            if contents.size != file.layout.size or contents.rest != rest_of(file.layout, file.trailer):
                raise ProofError(
                    f"{file.path}: expected {file.layout.size} bytes with the headers that were written, found other "
                    f"headers in {contents.size} bytes: another process wrote there, or the disk or memory is faulty; "
                    "remove it, then start the merge again"
                )
            self._output_digests[number] = contents.digest
            self._read_back |= contents.tensors

        # The outputs are the largest files, so that they come first.
        undigested = [number for number in outputs if number not in self._output_digests]
        work = [partial(digest_output, number) for number in undigested]
        work += [partial(digest_input, rank) for rank in ranks]
        in_parallel(lambda step: step(), work, self._workers)

    def prove(self, tensors: Sequence[PlannedTensor]) -> None:
        """Compare what was written of `tensors` with every slice."""

        def prove_tensor(tensor: PlannedTensor) -> None:
            name = tensor.merged.name
            file = self._home[name]
            self.proven[name] = prove(tensor, file, file.layout.extents[name], self.files)
            self.meter.advance(tensor.merged.size, tensors=1)

        self._begin("proving", tensors)
        in_parallel(prove_tensor, tensors, self._workers)

    def changed_tensors(self) -> list[str]:
        """The tensors whose bytes, as the outputs were digested, are not those that were compared with the slices."""
        found = self._read_back
        return [name for name, proven in self.proven.items() if found.get(name, proven.digest) != proven.digest]

    def check_inputs(self) -> None:
        """Refuse files that changed meanwhile, and files that are another rank's."""
        check_no_rank_is_anothers_copy(self.prepared.plan, self.input_digests, self.files)
        for file in self.files:
            file.check_unchanged()

    def record(self) -> dict[str, Any]:
        """The merge's record, when all is done; `ProofError` where the outputs are not what was compared."""
        if changed := self.changed_tensors():
            raise ProofError(
                f"{self.staged[0].path.parent}: {', '.join(changed[:8])}: expected the bytes that were compared with "
                "the slices, found others: another process wrote there, or the disk or memory is faulty; merge again"
            )
        inputs = self.prepared.inputs([self.input_digests[rank] for rank in range(len(self.files))])
        outputs = [self._output_digests[number] for number in range(len(self.staged))]
        return build_record(self.prepared, inputs, outputs, self.proven)

    def _begin(self, phase: str, tensors: Sequence[PlannedTensor]) -> None:
        self.meter.begin(phase, sum(tensor.merged.size for tensor in tensors), len(tensors))
