"""Headers of a whole export, in parallel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from hlip.dicom.found import Found
from hlip.dicom.headers import read_chunk
from hlip.dicom.tags import Slice, Stack, Unread
from hlip.importing.outcome import ImportingError
from hlip.pools import make_pool

_CHUNK = 200  # files a task


def read_headers(files: Sequence[Found], workers: int, progress: bool = True) -> tuple[list[Slice], list[Unread]]:
    """The slices among files, in the order of `files` whatever the number of workers, and the files that are none.

    Raises:
        ImportingError: a worker was killed.
    """
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    results: list[list[Slice | Unread]] = [[] for _ in chunks]
    stacks: dict[Stack, Stack] = {}  # one object for all equal ones: a million slices fit into memory
    with tqdm(total=len(files), unit="file", desc="headers", disable=not progress) as bar:
        for place, found in _in_parallel(chunks, workers):
            results[place] = [_shared(item, stacks) for item in found]
            bar.update(len(chunks[place]))
    read = [item for chunk in results for item in chunk]
    return [item for item in read if isinstance(item, Slice)], [item for item in read if isinstance(item, Unread)]


def _in_parallel(chunks: list[Sequence[Found]], workers: int) -> Iterator[tuple[int, list[Slice | Unread]]]:
    if min(workers, len(chunks)) <= 1:
        yield from ((place, read_chunk(chunk)) for place, chunk in enumerate(chunks))
        return
    pool = make_pool(min(workers, len(chunks)))
    try:
        places = {pool.submit(read_chunk, chunk): place for place, chunk in enumerate(chunks)}
        for future in as_completed(places):
            yield places.pop(future), future.result()  # not kept twice
    except BrokenProcessPool as error:
        raise ImportingError("a worker was killed, probably out of memory; start again with fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _shared(item: Slice | Unread, stacks: dict[Stack, Stack]) -> Slice | Unread:
    if isinstance(item, Slice):
        object.__setattr__(item, "stack", stacks.setdefault(item.stack, item.stack))
    return item
