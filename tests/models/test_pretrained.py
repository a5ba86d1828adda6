"""Where training may start from: files of timm's names under prefixes, timm's folders, and a hub that runs here."""

import base64
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
from references import named, random_weights, same, write_safetensors
from test_predict import QUIET, contents, encode, make_workdir, picture

from configs import resnet50
from gz_jax import modes, resolve
from gz_jax.inference import trained
from gz_jax.inference.predict import predict_catalogue
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.models import imagenet, pretrained
from gz_jax.modes.export import export
from gz_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
UNIT = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
PREFIXES = ("encoder.", "module.", "model.", "backbone.", "module.encoder.", "layer9.conv1.")


@pytest.fixture(scope="module")
def weights():
    """A body without a head, as Zoobot's."""
    return random_weights("torchvision", top=False)


@pytest.fixture(scope="module")
def arrays(weights):
    return named(weights, 2) | {"bn1.num_batches_tracked": np.zeros((), np.int64)}


def under(prefix, arrays):
    return {prefix + key: value for key, value in arrays.items()}


def folder_of(path, arrays, **config):
    """timm's folder: config.json with `config`, and model.safetensors."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architecture": "resnet50", "num_classes": 0, **config}))
    write_safetensors(arrays, path / "model.safetensors")
    return path


def found(source, told=None):
    return pretrained.read(pretrained.locate(str(source)), told)


def asked(source, **model):
    """A config that starts from `source`, and what it starts from."""
    config = resnet50.get_config()
    config.model.update({"pretrained": str(source), **model})
    return config, resolve.weights(config, GALAXY_ZOO_2, lambda folder: pytest.fail(f"{folder} is no network of ours"))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_found_and_named(prefix, weights, arrays, tmp_path):
    file = write_safetensors(under(prefix, arrays), tmp_path / "weights.safetensors")
    read, how, text = found(file, "unit")
    assert same(read, weights)
    assert (read.variant, read.fingerprint, how) == ("torchvision", weights.fingerprint, "unit")
    assert f"keys with the prefix {prefix!r}" in text
    file.unlink()  # 94 MB


@pytest.mark.peers
@pytest.mark.parametrize("suffix", ["bin", "pth"])
@pytest.mark.parametrize("prefix", ["", *PREFIXES[:2], "module.encoder."])
@pytest.mark.parametrize("nested", [(), ("state_dict",), ("model", "state_dict")])
def test_pytorch_files_are_searched_as_well(suffix, prefix, nested, weights, arrays, tmp_path):
    torch = pytest.importorskip("torch")
    content = {key: torch.from_numpy(np.array(value)) for key, value in under(prefix, arrays).items()}
    for name in reversed(nested):
        content = {"epoch": 7, name: content}
    torch.save(content, tmp_path / f"weights.{suffix}")
    read, _, text = found(tmp_path / f"weights.{suffix}", "torch")
    assert same(read, weights)
    assert ("prefix" in text) == bool(prefix)
    assert f"tensors under {'.'.join(nested)!r}" in text if nested else "under" not in text
    (tmp_path / f"weights.{suffix}").unlink()


@pytest.mark.peers
def test_a_dictionary_within_itself_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "endless.pth")
    with pytest.raises(UserError, match="holds no state_dict"):
        found(tmp_path / "endless.pth", "unit")


def test_under_a_prefix_nothing_is_left_over_or_missing_unnamed(arrays, tmp_path):
    other = under("module.encoder.", arrays) | {
        "module.head.0.weight": np.zeros((5, 2048)),
        "layer1.0.conv1.x": np.ones(2),
    }
    del other["module.encoder.layer2.0.conv1.weight"]
    other["module.encoder.bn1.bias"] = np.zeros(65)
    with pytest.raises(UserError) as raised:
        found(write_safetensors(other, tmp_path / "weights.safetensors"), "unit")
    for part in (
        "missing module.encoder.layer2.0.conv1.weight (128, 256, 1, 1)",
        "module.encoder.bn1.bias has shape (65,), not (64,)",
        "unused module.head.0.weight",
        "unused layer1.0.conv1.x",
    ):
        assert part in str(raised.value)


def test_two_networks_in_a_file_are_refused(arrays, tmp_path):
    both = under("student.", arrays) | under("teacher.", arrays)
    with pytest.raises(UserError, match=r"unused teacher\.bn1\.bias"):
        found(write_safetensors(both, tmp_path / "weights.safetensors"), "unit")


def test_a_head_of_other_classes_is_left_out_and_named(weights, arrays, tmp_path):
    head = {"fc.weight": np.zeros((34, 2048), np.float32), "fc.bias": np.zeros(34, np.float32)}
    read, _, text = found(write_safetensors(arrays | head, tmp_path / "a.safetensors"), "unit")
    assert same(read, weights)
    assert text.startswith("its head of 34 classes is left out")
    head["fc.weight"] = np.zeros((33, 2048), np.float32)
    with pytest.raises(UserError, match=r"fc\.weight has shape \(33, 2048\), not \(34, 2048\)"):
        found(write_safetensors(arrays | head, tmp_path / "a.safetensors"), "unit")


def test_a_bare_file_must_be_told_its_pixels(weights, arrays, tmp_path):
    file = write_safetensors(arrays, tmp_path / "weights.safetensors")
    with pytest.raises(
        UserError, match=r"does not say which pixels.*Zoobot's.*0\.\.1.*--config\.model\.preprocess=unit"
    ):
        asked(file)
    for how in ("unit", "torch", "keras"):
        config, start = asked(file, preprocess=how)
        assert (config.model.variant, config.model.preprocess) == ("torchvision", how)
        assert resolve.parts(config, GALAXY_ZOO_2).module.preprocess == how
        assert start.fingerprint == weights.fingerprint
        assert start.text == f"starting from {file}: the body alone; it has no head; pixels {how!r}, as asked for"
        assert [(kind, *values) for kind, values in start.variables.items()] == [
            ("params", "body"),
            ("batch_stats", "body"),
        ]


def test_our_own_files_say_their_pixels(weights, tmp_path):
    for how in ("unit", "torch"):
        imagenet.save_safetensors(weights._replace(preprocess=how), tmp_path / "ours.safetensors")
        assert found(tmp_path / "ours.safetensors")[1] == how
    imagenet.save_safetensors(weights._replace(preprocess=None), tmp_path / "ours.safetensors")
    with pytest.raises(UserError, match="does not say which pixels"):
        found(tmp_path / "ours.safetensors")


@pytest.mark.slow
def test_keras_weights_are_known_by_their_values(resnet50_imagenet, tmp_path):
    bare = imagenet.read_weights(resnet50_imagenet)._replace(top=None, preprocess=None)
    imagenet.save_safetensors(bare, tmp_path / "renamed.safetensors")
    for file in (resnet50_imagenet, tmp_path / "renamed.safetensors"):
        assert found(file)[1] == "keras"


@pytest.mark.parametrize(
    ("config", "how"),
    [
        ({"pretrained_cfg": UNIT}, "unit"),
        ({"pretrained_cfg": {**IMAGENET, "input_size": [3, 224, 224]}, "architecture": "resnet50.a1_in1k"}, "torch"),
        ({**IMAGENET, "model_args": {"num_classes": 5, "in_chans": 3}}, "torch"),
    ],
)
def test_timms_folder_says_its_pixels(config, how, weights, arrays, tmp_path):
    folder = folder_of(tmp_path / "net", arrays, **config)
    read, said, text = found(folder)
    assert same(read, weights)
    assert said == how
    assert text.endswith("in config.json")
    other = "unit" if how == "torch" else "torch"
    read, said, text = found(folder, other)
    assert said == other
    assert f"pixels {other!r}, as asked for (the source: mean [" in text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}},
            r"mean \[0\.5, 0\.5, 0\.5\] and std .* are not known",
        ),
        ({"pretrained_cfg": {**IMAGENET, "std": "wide"}}, r"std wide in config\.json are not known"),
        ({"pretrained_cfg": {"mean": IMAGENET["mean"]}}, "std None in"),
        ({}, "does not say which pixels"),
        ({**UNIT, "architecture": "resnetblur50"}, "architecture is 'resnetblur50'; only"),
        ({**UNIT, "model_args": {"output_stride": 8}}, "'resnet50', output_stride=8; only"),
    ],
)
def test_folders_that_are_refused_by_value(config, message, arrays, tmp_path):
    folder = folder_of(tmp_path / "net", arrays, **config)
    with pytest.raises(UserError, match=message):
        found(folder)


def test_folders_that_hold_no_network(tmp_path):
    with pytest.raises(UserError, match=r"is not a workdir, a shared network .* config\.json cannot be read"):
        found(tmp_path)
    for text in ("[1]", "{", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
            found(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(UNIT))
    with pytest.raises(UserError, match=r"no weights file at .*model\.safetensors"):
        found(tmp_path)


def test_a_cnn_cannot_start_from_a_resnet50(arrays, tmp_path):
    with pytest.raises(UserError, match=r"--config\.model\.name=resnet50"):
        asked(folder_of(tmp_path / "net", arrays, **UNIT), name="cnn")


COMMITS = {"main": "a" * 40, "refs/pr/1": "b" * 40}
REPOSITORY = "/someone/net/resolve/"


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub's client asks of a repository: HEAD and GET of a file at a revision or commit."""

    files: dict  # bytes by commit and name
    log: list

    def _answer(self):
        self.log.append((self.command, self.path))
        revision, _, name = self.path.removeprefix(REPOSITORY).replace("%2F", "/").rpartition("/")
        commit = COMMITS.get(revision, revision)
        known = self.path.startswith(REPOSITORY) and commit in COMMITS.values()
        data = self.files.get((commit, name), b"") if known else b""
        self.send_response(200 if data else 404)
        if known:
            self.send_header("X-Repo-Commit", commit)
        if data:
            self.send_header("ETag", f'"{name}-{commit}"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return data

    do_HEAD = _answer  # noqa: N815

    def do_POST(self):
        """What it asks for one commit: a repository, how each file is sent (in the commit itself), and the commit."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.log.append((self.command, self.path))
        allowed = self.headers.get("Authorization") == "Bearer hf_secret"
        if self.path == "/api/repos/create":
            answer = {"url": f"http://{self.headers['Host']}/someone/net"}
        elif self.path == "/api/models/someone/net/preupload/main":
            answer = {
                "files": [
                    {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(data)["files"]
                ]
            }
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        else:
            assert self.path.startswith("/api/models/someone/net/commit/main")
            for line in map(json.loads, data.splitlines()):
                if line["key"] == "file":
                    name, content = line["value"]["path"], base64.b64decode(line["value"]["content"])
                    self.files[COMMITS["main"], name] = content
            answer = {"commitUrl": f"http://{self.headers['Host']}/someone/net/commit/{COMMITS['main']}"}
            answer |= {"commitOid": COMMITS["main"], "success": True}
        body = json.dumps(answer if allowed else {"error": "Invalid username or password."}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.wfile.write(self._answer())

    def log_message(self, *_):
        pass


CODE = """
import json, sys
from gz_jax.models import pretrained
from gz_jax.runtime.errors import UserError
for source in sys.argv[1:]:
    try:
        weights, how, text = pretrained.read(pretrained.locate(source), None)
        print(json.dumps([weights.fingerprint, how]), flush=True)
    except UserError as error:
        print(json.dumps(["refused", str(error)]), flush=True)
"""


def in_process(home, port, *arguments, status=0, **environment):
    """A Python of its own, whose hub is the local server: the client reads its environment when loaded.

    TQDM_POSITION shows the progress bar though this is no terminal.
    """
    unset = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), "")
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home), "TQDM_POSITION": "-1"}
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **unset, **hub, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == status, result.stderr
    return result


def fetch(home, port, *sources, **environment):
    """What such a process finds, and its standard error."""
    result = in_process(home, port, "-c", CODE, *sources, **environment)
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


@pytest.fixture
def hub():
    """A server without files, and its port."""
    handler = type("Handler", (Hub,), {"files": {}, "log": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, server.server_address[1]
    server.shutdown()
    server.server_close()


def test_the_hub_is_fetched_once_and_then_works_offline(hub, weights, arrays, tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (pip install 'gz_jax[hub]')")
    handler, port = hub
    main, change = COMMITS.values()
    data = write_safetensors(arrays, tmp_path / "m.safetensors").read_bytes()
    about = {"architecture": "resnet50", "pretrained_cfg": UNIT}
    handler.files |= {(main, "config.json"): json.dumps(about).encode(), (main, "model.safetensors"): data}
    handler.files |= {(commit, "evil.py"): b"raise SystemExit" for commit in COMMITS.values()}
    about["pretrained_cfg"] = IMAGENET
    handler.files[change, "config.json"] = json.dumps(about).encode()  # and no weights
    sources = ("hf-hub:someone/net", "hf-hub:someone/net@refs/pr/1", "hf-hub:someone/none", "hf-hub:a/b/c", "hf-hub:x")
    answers, bars = fetch(tmp_path / "home", port, *sources)
    assert answers[0] == [weights.fingerprint, "unit"]
    assert [answer[0] for answer in answers[1:]] == ["refused"] * 4
    assert "pytorch_model.bin" in answers[1][1]
    assert "Repository" in answers[2][1]
    assert "hf-hub:owner/name@revision" in answers[3][1]
    assert "model.safetensors" in bars  # the progress bar
    assert "100%" in bars
    names = {path.rpartition("/")[2] for _, path in handler.log if path.startswith(REPOSITORY)}
    assert names == {"config.json", "model.safetensors", "pytorch_model.bin"}
    loaded = [path for command, path in handler.log if command == "GET" and path.startswith(REPOSITORY)]
    assert sum(path.endswith("model.safetensors") for path in loaded) == 1
    handler.log.clear()
    answers, _ = fetch(tmp_path / "home", port, *sources[:2], HF_HUB_OFFLINE="1")
    assert answers[0] == [weights.fingerprint, "unit"]
    assert answers[1][0] == "refused"
    answers, _ = fetch(tmp_path / "empty", port, sources[0], HF_HUB_OFFLINE="1")
    assert answers[0][0] == "refused"
    assert "A folder of files downloaded elsewhere" in answers[0][1]
    assert not handler.log


@pytest.mark.peers
def test_zoobots_repository(hub, weights, arrays, tmp_path):
    """config.json and pytorch_model.bin, the body alone; a safetensors copy at another revision."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (pip install 'gz_jax[hub]')")
    torch = pytest.importorskip("torch")
    handler, port = hub
    main, change = COMMITS.values()
    torch.save({key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}, tmp_path / "w.bin")
    about = json.dumps({"architecture": "resnet50", "num_classes": 0, "num_features": 2048, "pretrained_cfg": UNIT})
    handler.files |= {(commit, "config.json"): about.encode() for commit in COMMITS.values()}
    handler.files[main, "pytorch_model.bin"] = (tmp_path / "w.bin").read_bytes()
    handler.files[change, "model.safetensors"] = write_safetensors(arrays, tmp_path / "m.safetensors").read_bytes()
    answers, _ = fetch(tmp_path / "home", port, "hf-hub:someone/net", "hf-hub:someone/net@refs/pr/1")
    assert answers == [[weights.fingerprint, "unit"]] * 2


@pytest.mark.slow
def test_a_network_on_the_hub_predicts_as_the_workdir_does_and_can_be_exported(hub, tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (pip install 'gz_jax[hub]')")
    handler, port = hub
    workdir, folder, copy = make_workdir(tmp_path / "net"), tmp_path / "shared", tmp_path / "copy"
    export(str(workdir), types.SimpleNamespace(output=str(folder), formats=[], hub=None))
    handler.files |= {("a" * 40, path.name): path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "images").mkdir()
    for i in range(5):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(encode(picture(i), "JPEG"))
    here = predict_catalogue(str(tmp_path / "images"), tmp_path / "here", [trained.load(workdir)], **QUIET)
    launch = [tmp_path / "home", port, "launch.py", "--workdir=hf-hub:someone/net@main"]
    in_process(*launch, "--mode=predict", f"--input={tmp_path / 'images'}", f"--output={tmp_path / 'there'}")
    assert contents(here) == contents(tmp_path / "there")
    assert len(contents(here)) == 1
    in_process(*launch, "--mode=export", f"--output={copy}", HF_HUB_OFFLINE="1")
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


@pytest.mark.slow
def test_a_network_sent_to_the_hub_is_the_one_that_others_load(hub, tmp_path):
    """Without a token nothing is sent, and the folder is there all the same."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (pip install 'gz_jax[hub]')")
    handler, port = hub
    workdir, folder = make_workdir(tmp_path / "net"), tmp_path / "shared"
    (tmp_path / "shared.extra").write_text("no file of it")
    command = [tmp_path / "home", port, "launch.py", "--mode=export", f"--workdir={workdir}", f"--output={folder}"]
    refused = in_process(*command, "--hub=someone/net", status=2).stderr
    assert refused.count("error: ") == 1
    assert f"{folder} is written and cannot be sent to someone/net" in refused
    assert not handler.files
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "README.md"} <= set(files)
    (folder / "notes.txt").write_text("the user's own, which nobody asked to send")
    said = in_process(*command, "--hub=someone/net", HF_TOKEN="hf_secret").stdout
    assert f"/someone/net/commit/{COMMITS['main']}" in said
    assert {name: data for (_, name), data in handler.files.items()} == files
    for name in ("net", "a/b/c", "someone/net@main", "some one/net"):
        with pytest.raises(UserError, match="called owner/name"):
            export(str(workdir), types.SimpleNamespace(output=str(folder), formats=[], hub=name))


@pytest.mark.parametrize("mode", ["evaluate", "mergers", "train"])
def test_nothing_is_written_into_a_network_on_the_hub(mode):
    with pytest.raises(UserError, match=rf"--mode={mode} writes into its workdir: make a folder of hf-hub:a/b first"):
        modes._run(mode, resnet50.get_config(), "hf-hub:a/b", [], None)


def test_without_the_hubs_client_the_message_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (pretrained.locate, trained.load):
        with pytest.raises(UserError, match=r"needs huggingface_hub: pip install 'gz_jax\[hub\]'"):
            use("hf-hub:someone/net")
