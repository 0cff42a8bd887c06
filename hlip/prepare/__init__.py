"""`hlip prepare`: a manifest of studies -> a store, in parallel.

Notable choices:
- One study is one task and one file. A study that is already there, made with the same VolumeSpec from the same source
  files (path, sequence, size, time of change), is not touched again; everything else is made anew. So a run may be
  stopped at any time.
- A scan that cannot be used is a named row of the quality table; it never stops its study, nor a study the rest. That holds for a scan
  at which the process is killed (tried again with no other beside it, as memory is shared) or that takes longer than the time limit, too;
  both are tried again by the next run. What does stop a run, cleanly, is a store that cannot be written (full disk, no permission).
- Shards of a job array write study files into one folder and nothing else. A last run without a shard finds them done, makes what is
  missing, and writes quality table, page and index.
- The index is taken away before the first change and written last: nobody opens a half-changed store by mistake.
- The same bytes come from any number of workers: no clock of the run, no process number, no order of arrival is written.
"""

from __future__ import annotations

from hlip.prepare.cohort import prepare
from hlip.prepare.one_study import prepare_study
from hlip.prepare.summary import PrepareSummary

__all__ = ["PrepareSummary", "prepare", "prepare_study"]
