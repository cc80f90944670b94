"""Why a soup works or does not: numbers first, pictures drawn from them, advice that names its evidence."""
