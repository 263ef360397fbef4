"""How a driver meets the others: by the study's database."""

import contextlib
import dataclasses
from collections.abc import Iterator

from rich.console import Console

from jointnas_jax.errors import BusyError, ConfigError, JointNASError
from jointnas_jax.study.claims import Claims
from jointnas_jax.study.jobs import Keeping
from jointnas_jax.study.latency import LatencyTable
from jointnas_jax.study.ledger import Ledger
from jointnas_jax.study.origin import Origin, machine_here
from jointnas_jax.study.peers import versions
from jointnas_jax.study.planning import devices_here, scales_here
from jointnas_jax.study.problem import Problem, build_problem
from jointnas_jax.study.shared import ClaimedStore, Shared, shared_name
from jointnas_jax.study.store import TrialStore
from jointnas_jax.study.workdir import Found, clear, start


class SharedLedger(Ledger):
    """The workdir of a driver; what it must have in common with the others is in the database."""

    _overwrite = False
    _store: ClaimedStore | None = None

    @contextlib.contextmanager
    def owned(self, overwrite: bool) -> Iterator[None]:
        """See `Ledger`; what is claimed in the end is given back."""
        self._overwrite = overwrite
        with super().owned(overwrite):
            try:
                yield
            finally:
                if self._store:
                    with contextlib.suppress(JointNASError):
                        self._store.claims.leave()

    def met(self, problem: Problem) -> Problem:
        """Begins or joins the study; raises what `TrialStore` does.

        Raises:
          BusyError: the study is to be replaced while other drivers run it.
          ConfigError: other code began it, or the workdir is of a study that is stored elsewhere.
        """
        config, name, code = self._config, shared_name(self._config), versions()["code"]
        machine, scales = machine_here(devices_here(config)), scales_here(config, Keeping())
        here = dataclasses.replace(Origin.here(config, machine, scales), study=name)
        begun = self.origin
        if begun and (begun.storage, begun.study) != (here.storage, here.study):
            raise ConfigError(
                f"workdir `{self._workdir}` holds a study that is stored elsewhere, in "
                f"`{begun.storage or self._workdir}`; give another --workdir"
            )
        store = TrialStore(config.study.storage, name)
        self._store = ClaimedStore(store, Claims(store, config.shared.timeout))
        self._store.claims.join()  # so that two that replace a study see each other
        if self._overwrite:
            self._replace(store)
        latency = problem.latency and dataclasses.asdict(problem.latency)
        facts = store.join({"code": code, "origin": dataclasses.asdict(here), "latency": latency})
        if facts["code"] != code:
            raise ConfigError(
                f"the study `{store.name}` in `{store.place}` was begun by other code, "
                f"{facts['code']} there, {code} here; all drivers need the same; --overwrite "
                "replaces it"
            )
        self.origin = Origin(**facts["origin"] | {"scales": tuple(facts["origin"]["scales"])})
        if facts["latency"] != latency:
            return build_problem(config, LatencyTable(**facts["latency"]))
        return problem

    def _replace(self, store: TrialStore) -> None:
        """Removes the study from the database, unless others run it."""
        if others := self._store.claims.others():
            raise BusyError(
                f"{len(others)} other drivers run the study `{store.name}` in `{store.place}`; "
                "stop them before --overwrite replaces it"
            )
        store.remove(store.name)
        self._store.claims.forget()

    def open(self, executor: Shared, problem: Problem, console: Console) -> ClaimedStore:
        """See `Ledger`."""
        self.origin.check(self._config, executor.machine, console)
        if self.found is Found.NOTHING:
            clear(self._workdir)
            self.origin.write(self._workdir)
            if problem.latency:
                problem.latency.write(self._workdir)
            start(self._workdir, self._config)
        executor.share(self._store)
        return self._store
