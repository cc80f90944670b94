"""What a job runs: `python -m hf_soup.jobs REPO_ID COMMIT ITEM` calls the function in the repository on the item."""

from __future__ import annotations

import sys
import traceback

from .running import check_login
from .storage import JobStorage


def main() -> int:
    """Call the function, and put its answer into the repository; the exit status is 1 if it raised an error."""
    repo_id, commit, item = sys.argv[1:]
    storage = JobStorage(repo_id, check_login())
    answer = storage.call(commit, item)
    if answer.error is not None:
        traceback.print_exception(answer.error)  # for the logs of the job
    storage.write_answer(item, answer)
    return 0 if answer.error is None else 1


if __name__ == "__main__":
    sys.exit(main())
