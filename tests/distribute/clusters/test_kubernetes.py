"""The Kubernetes file of `cluster/`: the resource it makes, against the operator's own schema."""

import functools
import shlex
from pathlib import Path

import pytest
import yaml
from distributed.cli.dask_worker import main as dask_worker

from medl_scale.distribute.clusters import ClusterConfig, open_workers
from medl_scale.distribute.clusters.file import read_cluster_file
from medl_scale.distribute.clusters.kubernetes import cluster_spec
from medl_scale.errors import ClusterError, ConfigError
from medl_scale.progress import SilentProgress

FILE = Path(__file__).parents[3] / "cluster" / "kubernetes.yaml"

operator = pytest.importorskip(
    "dask_kubernetes.operator", reason="dask-kubernetes is not installed"
)
jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")


def spec_of(folder, **changes):
    """The resource of the file as a site adapts it, for three workers."""
    values = yaml.safe_load(FILE.read_text()) | changes
    (folder / "k.yaml").write_text(yaml.safe_dump(values))
    return cluster_spec(read_cluster_file(str(folder / "k.yaml")), 3)


@functools.cache
def schema():
    """What the operator's custom resource definition asks for; unknown fields are errors."""
    chart = Path(operator.__file__).parent / "deployment" / "helm" / "dask-kubernetes-operator"
    definition = yaml.load((chart / "crds" / "daskcluster.yaml").read_text(), yaml.CSafeLoader)
    (version,) = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    return strict(version["schema"]["openAPIV3Schema"])


def strict(node):
    """Forbid fields that a schema does not name, as `kubectl --validate=strict` does."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: strict(value) for key, value in node.items()}
    is_object = isinstance(node.get("properties"), dict) and node.get("type") == "object"
    if is_object and not node.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if node.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found


def is_valid(spec):
    # What every resource has beside what its definition names.
    known = schema()
    known["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"},
                            "metadata": {"type": "object"}}  # fmt: skip
    return [error.message for error in jsonschema.Draft7Validator(known).iter_errors(spec)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gpus": 0, "volume_claim": None, "worker": {"memory_limit": "60GB"}},
        {
            "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100"},
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
            ],
        },
    ],
)
def test_the_resource_is_one_that_the_operator_takes(tmp_path, changes):
    spec = spec_of(tmp_path, **changes)
    assert is_valid(spec) == []
    assert (spec["apiVersion"], spec["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    assert spec["metadata"]["name"] == "medl-scale"
    assert spec["spec"]["worker"]["replicas"] == 3


def test_the_schema_refuses_what_is_wrong(tmp_path):
    spec = spec_of(tmp_path)
    spec["spec"]["worker"]["spec"]["containers"][0]["volumeMount"] = []
    spec["spec"]["worker"]["replicas"] = "3"
    assert len(is_valid(spec)) >= 2


def test_a_worker_is_a_pod_with_its_gpu_its_files_and_its_threads(tmp_path):
    pod = spec_of(tmp_path)["spec"]["worker"]["spec"]
    (container,) = pod["containers"]
    sizes = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"}
    assert container["resources"] == {"requests": sizes, "limits": sizes}
    command = shlex.join(container["args"])
    assert command.startswith("dask cuda worker --nthreads 1 --rmm-pool-size 4GB --name ")
    assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "atlases"}} in pod["volumes"]
    env = {item["name"]: item["value"] for item in container["env"]}
    assert env["OMP_NUM_THREADS"] == "8"
    assert env["DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE"] == "False"
    for item in container["env"]:
        assert isinstance(item["value"], str)


def test_the_scheduler_takes_no_gpu_and_counts_no_deaths_by_itself(tmp_path):
    (container,) = spec_of(tmp_path)["spec"]["scheduler"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["requests"]
    env = {item["name"]: item["value"] for item in container["env"]}
    assert env["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] == "0"


def test_the_command_of_a_pod_is_one_that_dask_has(tmp_path):
    options = {"memory_limit": "9GB", "local_directory": "/scratch"}
    pod = spec_of(tmp_path, gpus=0, worker=options)["spec"]["worker"]["spec"]
    args = pod["containers"][0]["args"]
    assert args[:6] == ["dask", "worker", "--nthreads", "1", "--memory-limit", "9GB"]
    known = {name for param in dask_worker.params for name in (*param.opts, *param.secondary_opts)}
    assert {word for word in args if word.startswith("--")} <= known


def test_options_that_pods_do_not_have_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Pods have one interface and talk TCP"):
        spec_of(tmp_path, worker={"interface": "eth0"})


def test_no_kubernetes_is_told_with_what_to_check(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with (
        pytest.raises(ClusterError, match=r"No cluster on Kubernetes: .*`kubectl cluster-info`"),
        open_workers(ClusterConfig(file=str(FILE)), progress=SilentProgress()),
    ):
        pass
