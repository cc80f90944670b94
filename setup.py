"""Puts the cook files of recipes/ into the package when it is built; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """An editable install reads the folder where it is, so only a build that copies the package copies them."""

    def run(self):
        """Build the package, then put the cook files beside its modules."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "hf_soup" / "recipes"
        self.mkpath(str(target))
        for recipe in sorted(Path("recipes").glob("*.yaml")):
            self.copy_file(str(recipe), str(target / recipe.name))


setup(cmdclass={"build_py": BuildWithRecipes})
