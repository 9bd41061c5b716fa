"""``python -m shaping_bench.speed`` is the speed benchmark."""

from shaping_bench.start import settle

if __name__ == "__main__":
    settle("shaping_bench.speed")
    from shaping_bench.speed.benchmark import main

    main()
