"""The nets and the cache of the bench."""

from __future__ import annotations

from tests.bench.conftest import bench_cache as bench_cache
from tests.bench.conftest import brief as brief
from tests.bench.conftest import net as net
from tests.bench.conftest import no_orphans as no_orphans
from tests.bench.conftest import own_cache as own_cache
from tests.bench.conftest import sample as sample
from tests.bench.conftest import tflite as tflite
