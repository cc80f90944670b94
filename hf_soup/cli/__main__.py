"""`python -m hf_soup.cli`, as `accelerate launch -m` calls it."""

from .start import main


if __name__ == "__main__":
    main()
