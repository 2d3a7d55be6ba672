"""Contents of reports/timing.json."""

from pydantic import Field

from evaluation.metrics.schema import StrictModel


class Latency(StrictModel):
    """Cost of one image by one sampler."""

    nfe: int
    seconds_per_image: float = Field(description="seconds per image in batches of batch_size")
    seconds_alone: float = Field(description="seconds of one image in a batch of its own")
    gflops_per_image: float = Field(description="1e9 operations of all passes and decoding; multiply and add are two")


class Host(StrictModel):
    """Machine and software of the measurement."""

    machine: str
    processor: str
    device: str
    threads: int
    python: str
    torch: str


class Timing(StrictModel):
    """Contents of reports/timing.json: one process measures teacher and student in turn. No stage reads it."""

    student: Latency
    teachers: dict[str, Latency]
    speedup: dict[str, float] = Field(description="seconds of a teacher's sampler / seconds of the student")
    images_per_second: float = Field(description="rate of the student at its best batch size")
    best_batch: int
    parameters: int = Field(description="number of parameters of the student's network")
    batch_size: int
    repeats: int
    peak_memory_mib: float = Field(description="largest resident set of the process")
    host: Host
