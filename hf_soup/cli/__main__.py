"""`python -m hf_soup.cli`, as `accelerate launch -m` calls it."""

from . import main


main()
