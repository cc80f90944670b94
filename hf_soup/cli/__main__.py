"""The entry point of `python -m hf_soup.cli`, and so of `accelerate launch -m hf_soup.cli`."""

from .start import main


if __name__ == "__main__":
    main()
