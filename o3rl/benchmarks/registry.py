"""The benchmarks by name."""

from collections.abc import Callable, Sequence

from o3rl.benchmarks import four_options, tvgbench, video_mmmu, voting, vstar
from o3rl.benchmarks.runner import Benchmark, Row, Scores, Scoring

BENCHMARKS: dict[str, Benchmark] = {
    "vstar": vstar.BENCHMARK,
    "tvgbench": tvgbench.BENCHMARK,
    "videomme": four_options.VIDEO_MME,
    "worldsense": four_options.WORLD_SENSE,
    "videommmu": video_mmmu.BENCHMARK,
}
_SHORT = {"tvg": "tvgbench"}


def benchmark_named(name: str) -> Benchmark:
    """By name, however it is written (`V-STaR`, `video_mme`). ValueError lists the names."""
    plain = "".join(filter(str.isalnum, name)).lower()
    plain = _SHORT.get(plain, plain)
    if plain not in BENCHMARKS:
        raise ValueError(f"{name!r} is no benchmark; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[plain]


def scorer_named(name: str) -> tuple[str, int | None, Callable[[Sequence[Row], Scoring], Scores]]:
    """Title, published number of rows (None: any), and scorer; of `voting` too."""
    if name == "voting":
        return "voting", None, voting.score
    benchmark = benchmark_named(name)
    return benchmark.name, benchmark.size, benchmark.score
