"""All tables, one after the other: `python -m benchmarks`."""

from benchmarks import brush_rle, engine, prompt, queue, regions, webhook

for benchmark in (brush_rle, regions, queue, webhook, prompt, engine):
    print(f"\n{(benchmark.__doc__ or '').splitlines()[0]}")
    benchmark.main()
