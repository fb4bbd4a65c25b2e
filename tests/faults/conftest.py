from ..cli.conftest import command, small_run  # noqa: F401 (fixtures)
