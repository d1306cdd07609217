"""A user's own options as Hydra's config groups: head=mine:SOFTSIGN, and what the files of
./conf/GROUP/ name."""

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from vae_sweep import options
from vae_sweep.command import arguments


class OwnSource(ConfigSource):
    """hydra.searchpath=[own://]."""

    @staticmethod
    def scheme() -> str:
        return "own"

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.strip("/") in ("", *arguments.OPEN)

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.strip("/").removesuffix(".yaml").partition("/")
        return group in arguments.OPEN and arguments.own_name(group, name) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        path = config_path.strip("/")
        if path == "" and results_filter != ObjectType.CONFIG:
            return sorted(g for g in arguments.OPEN if options.own_files(g))
        if path in arguments.OPEN and results_filter != ObjectType.GROUP:
            return list(options.own_files(path))
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        group, _, name = config_path.strip("/").removesuffix(".yaml").partition("/")
        content, package = arguments.own_option(group, name)
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=OmegaConf.create(content),
            header={"package": package},
        )
