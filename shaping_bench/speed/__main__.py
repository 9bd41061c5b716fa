"""``python -m shaping_bench.speed`` is the speed benchmark."""

from shaping_bench.speed.benchmark import main

if __name__ == "__main__":
    main()
