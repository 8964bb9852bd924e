"""Settings: params.yaml read strictly into frozen dataclasses."""

from bivrec.settings.datasets import *
from bivrec.settings.paths import profile_folder, project_root, repro_command
from bivrec.settings.reading import (
    can_do_with,
    check_params,
    grid_of,
    load_settings,
    pick,
    space_of,
    variants_of,
    vary,
    without_modalities,
    without_repeats,
)
from bivrec.settings.schema import *
from bivrec.settings.types import check_reads
