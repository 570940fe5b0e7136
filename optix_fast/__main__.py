"""python -m optix_fast: the optix-fast command."""

from optix_fast.cli.main import main

if __name__ == "__main__":
    main()
