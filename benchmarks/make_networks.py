"""Train the embedded world's E_id and judge anew and write them as they are shipped: python benchmarks/make_networks.py [RUNS] [FOLDER].

Three minutes on two cores. The files that come with synthbench were made in this way; on another kind of processor the last bits differ,
and with them the digest.
"""

import sys
from pathlib import Path

from synthbench.device import pick_device, set_threads
from synthbench.models.shipped import ship
from synthbench.pipeline.job import Job
from synthbench.pipeline.steps import execute
from synthbench.protocol import ShippedNetwork, TrainedNetwork, WorldFaces, load_protocol
from synthbench.store import Store
from synthbench.types import Volume

OTHERS = WorldFaces(world="judge", identities=300, images=20)  # not the people of E_id
NETWORKS = {
    "encoder": TrainedNetwork(recipe="demo_encoder", seed=101),  # on the protocol's real set
    "judge": TrainedNetwork(recipe="demo", seed=102, faces=OTHERS),
}


def main(runs: str = "runs", folder: str = "") -> None:
    set_threads()
    job = Job(Store(Path(runs).absolute()), load_protocol("demo"), "real", Volume.parse("all"), pick_device("cpu")[0])
    for name, network in NETWORKS.items():
        steps = job.network_steps(name, network)
        execute(steps, job.store)
        place = ShippedNetwork(shipped=f"world-{name}").path
        target = Path(folder) / place.name if folder else place
        ship(steps[-1].stage.folder, target, name=f"world-{name}", made_with=network.model_dump(mode="json"))
        print(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
