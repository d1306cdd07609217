"""The config group `experiments`, for --help and the shell: a named grid is a file of
experiments/, which the sweeper reads; here an option only says its name."""

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from vae_sweep.command import experiments

GROUP = "experiments"


class ExperimentsSource(ConfigSource):
    """hydra.searchpath=[experiments://]."""

    @staticmethod
    def scheme() -> str:
        return GROUP

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.strip("/") in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.strip("/").removesuffix(".yaml").partition("/")
        return group == GROUP and name in experiments.available()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        path = config_path.strip("/")
        if path == "" and results_filter != ObjectType.CONFIG:
            return [GROUP]
        if path == GROUP and results_filter != ObjectType.GROUP:
            return sorted(experiments.available())
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        name = config_path.strip("/").removesuffix(".yaml").partition("/")[2]
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=OmegaConf.create({GROUP: name}),
            header={"package": "_global_"},
        )
