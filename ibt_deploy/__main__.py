"""``python -m ibt_deploy`` is ``ibt``."""

from ibt_deploy.cli import main

if __name__ == "__main__":
    main(prog_name="ibt")
