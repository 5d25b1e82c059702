"""Reading commands: which one runs Vite, where, and what has to be installed first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings, strategies as st

from orchestra.config.command import read
from orchestra.config.packages import plan_install
from orchestra.config.plan import Install

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCRIPTS = {
    "dev": "vite",
    "start": "npm run dev",
    "build": "tsc && vite build",
    "preview": "vite preview",
    "vite": "vite",
    "wrapped": "NODE_ENV=x cross-env A=b vite --port 3000",
    "indirect": "npm run build && npm run start",
    "loop": "npm run loop",
    "serve": "node server.js",
    "other": "npm --prefix other run dev",
}


def package(folder: Path, **content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project: packages at its root, in `ui`, and in a workspace below `apps`."""
    root = tmp_path_factory.mktemp("project")
    package(root, scripts=SCRIPTS, workspaces=["apps/*"])
    package(root / "ui", scripts={"dev": "vite"})
    package(root / "other", scripts={"dev": "vite"})
    package(root / "apps" / "shop", name="@x/shop", scripts={"dev": "vite"})
    (root / "ui" / "src").mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "package.json").write_text("{")
    return root


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        # the program itself
        ("vite", "."),
        ("vite dev", "."),
        ("vite --port 3000 --host", "."),
        ("vite --mode build", "."),
        ("vite --host --open", "."),
        ("node_modules/.bin/vite", "."),
        ("./node_modules/.bin/vite --port $PORT", "."),
        ("node node_modules/vite/bin/vite.js", "."),
        ("node --import ./x.js ui/node_modules/vite/bin/vite.js", "."),
        ("cd ui && vite", "ui"),
        ("cd 'ui'; vite", "ui"),
        ("cd ui/src/.. && vite", "ui"),
        ("cd ui && cd .. && vite", "."),
        ("cd nowhere || cd ui; vite", "ui"),
        ("(cd ui && npm i); vite", "."),
        ("(cd ui && vite)", "ui"),
        ("exec vite", "."),
        ("A=b C='d e' vite", "."),
        ("env -u C A=b vite", "."),
        ("nice -n -5 nohup vite", "."),
        ("sleep 1; vite > log 2>&1", "."),
        ("tsc -w & vite", "."),
        ("cd ui\nvite \\\n --host", "ui"),
        ("vite | tee log", "."),
        ("sh -c 'cd ui && exec vite'", "ui"),
        ('bash -lc "vite --port 3000"', "."),
        # package managers running programs
        ("npx vite", "."),
        ("cd ui && nuxt dev --port $PORT", "ui"),
        ("nuxt", "."),
        ("node_modules/.bin/astro dev", "."),
        ("npx ng@20 serve", "."),
        ("pnpm react-router dev", "."),
        ("npx --yes vite@latest --port 3000", "."),
        ("npx -p vite -- vite", "."),
        ("npx -c 'vite --host'", "."),
        ("npm exec vite", "."),
        ("npm exec --prefix ui -- vite", "ui"),
        ("pnpm exec vite", "."),
        ("pnpm vite", "."),
        ("pnpm dlx vite", "."),
        ("yarn vite", "."),
        ("yarn exec vite", "."),
        ("bunx --bun vite", "."),
        ("bun x vite", "."),
        ("corepack pnpm exec vite", "."),
        # scripts
        ("npm run dev", "."),
        ("npm run dev -- --host", "."),
        ("npm --silent run dev", "."),
        ("npm start", "."),
        ("npm run indirect", "."),
        ("npm run wrapped", "."),
        ("cd ui/src && npm run dev", "ui"),
        ("npm --prefix ui run dev", "ui"),
        ("npm --prefix=ui run dev", "ui"),
        ("npm -C ui run dev", "ui"),
        ("npm run dev --prefix ui", "ui"),
        ("npm run dev -w apps/shop", "apps/shop"),
        ("npm run dev --workspace=@x/shop", "apps/shop"),
        ("npm run other", "other"),
        ("pnpm dev", "."),
        ("pnpm run dev", "."),
        ("pnpm -C ui dev", "ui"),
        ("pnpm --dir ui dev --host", "ui"),
        ("pnpm --filter @x/shop dev", "apps/shop"),
        ("yarn dev", "."),
        ("yarn run dev", "."),
        ("yarn --cwd ui dev", "ui"),
        ("yarn workspace @x/shop dev", "apps/shop"),
        ("bun run dev", "."),
        ("bun --bun run dev", "."),
        ("bun dev", "."),
        ("node --run dev", "."),
    ],
)
def test_vite_is_found(root: Path, command: str, folder: str) -> None:
    reading = read(command, cwd=root, root=root)
    assert reading.why
    assert reading.folder.resolve() == (root / folder).resolve()


@pytest.mark.parametrize(
    "command",
    [
        "vite build",
        "vite --mode x build",
        "vite preview",
        "vite optimize",
        "vite --version",
        "npx vite build",
        "ng build --watch",
        "npx astro check",
        "npm run build",
        "npm run preview",
        "npm run vite -- build",
        "npm run vite build",
        "pnpm vite build",
        "yarn vite preview",
        "npm run loop",
        "npm run serve",
        "npm run nothing",
        "npm dev",
        "npm install vite",
        "yarn add vite",
        "cd broken && npm run dev",
        "cd $UI && npm run dev",
        "python -m vite_thing",
        "echo vite",
        "grep vite package.json",
        "vitest",
        "npx vitest",
        "pip install 'vite'",
        "uvicorn app:app --port $PORT",
        "echo 'open quote",
        "",
    ],
)
def test_what_is_not_vite_s_development_server_is_not_taken_for_it(root: Path, command: str) -> None:
    assert not read(command, cwd=root, root=root).why


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("cd ui && npm run dev", "`npm run dev` in ui runs vite"),
        ("npm start", "`npm start` runs vite"),
        ("sh -c 'cd ui && exec npx vite'", "`sh -c 'cd ui && exec npx vite'` in ui runs vite"),
        ("npm --prefix ui run dev", "`npm --prefix ui run dev` in ui runs vite"),
    ],
)
def test_it_is_said_how_vite_was_found(root: Path, command: str, why: str) -> None:
    assert read(command, cwd=root, root=root).why == why


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        ("npm run dev", ("node", "npm")),
        ("cd ui && pnpm dev", ("node", "pnpm")),
        ("yarn dev", ("node", "yarn")),
        ("bun dev", ("bun",)),
        ("npx vite", ("node", "npx")),
        ("vite", ("node", "vite")),
        ("./node_modules/.bin/vite", ("node",)),
        ("node server.js", ("node",)),
        ("corepack yarn dev", ("node", "corepack")),
        ("python app.py", ()),
        # it is not sure that these are needed, or where they will be found
        (". ~/.nvm/nvm.sh && npm run dev", ()),
        ("PATH=/opt/node/bin:$PATH npm run dev", ()),
        ("export PATH=/opt/node/bin:$PATH; npm run dev", ()),
        ("pnpm dev || npm run dev", ()),
        ("if true; then npm run dev; fi", ()),
        # a shell finds what we find, and so does a launcher
        ("sh -c 'cd ui && npm run dev'", ("node", "npm")),
    ],
)
def test_what_has_to_be_on_path_is_named_where_it_is_sure(
    root: Path, command: str, needs: tuple[str, ...]
) -> None:
    assert read(command, cwd=root, root=root).needs == needs


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{", "package.json:1: not JSON: "),
        (b"[]", "package.json: not a JSON object"),
        (b'{"\xff": 1}', "package.json: not UTF-8"),
        (b"[" * 100_000, "package.json: too large or too deep to be read"),
        (b'\xef\xbb\xbf{"scripts": {"dev": "vite"}}', None),
    ],
)
def test_a_package_json_that_no_manager_can_read_is_a_fault(
    tmp_path: Path, content: bytes, fault: str | None
) -> None:
    (tmp_path / "package.json").write_bytes(content)
    reading = read("npm run dev", cwd=tmp_path, root=tmp_path)
    assert bool(reading.why) is (fault is None)
    if fault is None:
        assert reading.fault is None
    else:
        assert str(reading.fault).startswith(f"{tmp_path}/{fault}")
    assert read("npm install", cwd=tmp_path, root=tmp_path).fault is None


def test_a_script_that_npm_is_not_going_to_find_is_a_fault(tmp_path: Path) -> None:
    def fault(command: str) -> str | None:
        found = read(command, cwd=tmp_path, root=tmp_path).fault
        return None if found is None else f"{found} {found.hint}".replace(str(tmp_path), "HERE")

    assert fault("npm run dev") == (
        "npm run dev: there is no package.json in HERE Correct the command, or create one: npm create vite."
    )
    package(tmp_path, scripts={"start": "vite"})
    no_script = "npm run dev: there is no such script in HERE/package.json There are: start."
    assert (fault("npm run dev"), fault("pnpm run dev")) == (no_script, f"p{no_script}")
    for command in (
        "npm run start",
        "npm run dev --if-present",
        "pnpm dev",
        "pnpm -r run dev",
        "yarn run dev",
        "npm test",
        "x || npm run dev",
    ):
        assert fault(command) is None


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("npm run dev 2>&1 | cat", "`npm run dev` runs vite"),
        ("npm run dev # the frontend", "`npm run dev` runs vite"),
        ("timeout 100 npm run dev", "`timeout 100 npm run dev` runs vite"),
        ("yarn workspace @x/shop run dev", "`yarn workspace @x/shop run dev` in apps/shop runs vite"),
        ("npx concurrently 'npm:x' 'vite'", "`npx concurrently npm:x vite` runs vite"),
        ("concurrently -n a,b 'tsc --watch' 'vite'", "`concurrently -n a,b 'tsc --watch' vite` runs vite"),
        ("$(npm bin)/vite", ""),
        ("`npm bin`/vite", ""),
        ("pushd ui && npm run dev", ""),
    ],
)
def test_what_surrounds_a_command_is_read_or_left_alone(root: Path, command: str, why: str) -> None:
    reading = read(command, cwd=root, root=root)
    assert (reading.why, reading.fault) == (why, None)


@pytest.mark.parametrize(
    ("command", "serves"),
    [
        ("uvicorn app:app --reload", "uvicorn app:app --reload"),
        ("python -m uvicorn app:app", "python -m uvicorn app:app"),
        ("python3.12 -X dev -m flask --app notes run", "python3.12 -X dev -m flask --app notes run"),
        ("uv run --with x manage.py runserver 8000", "manage.py runserver 8000"),
        ("cd api && exec poetry run fastapi dev main.py", "fastapi dev main.py"),
        ("sh -c 'hypercorn app:app'", "hypercorn app:app"),
        ("flask --app notes db upgrade", ""),
        ("python manage.py migrate", ""),
        ("python worker.py", ""),
        ("celery -A app worker", ""),
    ],
)
def test_known_servers_are_recognised(root: Path, command: str, serves: str) -> None:
    assert read(command, cwd=root, root=root).serves == serves


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("celery -A app worker", "celery"),
        ("cd ui && ./run.sh", "./run.sh"),
        ("A=1 exec nosuch x", "nosuch"),
        ("sh -c 'nosuch x'", "nosuch"),
        ("sh run.sh", "sh"),
        ("command -v x && y", ""),
        ("test -e x || y", ""),
        (". venv/bin/activate && x", ""),
        ("$EDITOR x", ""),
        ("echo hello", ""),
        ("export PATH=/x:$PATH; y", ""),
    ],
)
def test_the_program_that_is_sure_to_be_executed_is_known(root: Path, command: str, program: str) -> None:
    assert read(command, cwd=root, root=root).program == program


def test_a_folder_that_is_missing_is_named_where_it_is_sure(root: Path) -> None:
    def missing(command: str) -> Path | None:
        return read(command, cwd=root, root=root, env={"HOME": str(root)}).missing

    assert missing("cd nowhere && npm run dev") == root / "nowhere"
    assert missing("cd ui && cd nowhere && x") == root / "ui" / "nowhere"
    assert missing("cd ~/nowhere && x") == root / "nowhere"
    for command in (
        "cd ui",
        "cd",
        "cd ~/ui",
        "mkdir -p new && cd new",
        "cd $X",
        "cd no || cd ui",
        "echo cd no",
    ):
        assert missing(command) is None


# fmt: off
WORDS = [
    "npm", "run", "dev", "--", "vite", "cd", "ui", "&&", "||", "(", ")", ";", "sh", "-c", "'", '"',
    "npx", "-w", "exec", "yarn", "workspace", "env", "-u", "|", ">", "x", "A=b", "..", "~", "\\",
    "node", "--run", "pnpm", "--filter", "corepack", "bun", "do", "x" * 300, "\0",
]
# fmt: on


@settings(max_examples=200)
@given(st.lists(st.sampled_from(WORDS), max_size=10))
@example(["corepack"] * 50)
def test_any_command_can_be_read(words: list[str]) -> None:
    from pathlib import Path

    read(" ".join(words), cwd=Path("/nowhere/at/all"), root=Path("/nowhere"))


DEPENDENCIES = {"devDependencies": {"vite": "*"}, "scripts": {"dev": "vite"}}


def install(root: Path, command: str) -> Install | None:
    reading = read(command, cwd=root, root=root)
    return plan_install(reading.folder, root, uses=reading.manager) if reading.manager else None


@pytest.mark.parametrize(
    ("files", "content", "command", "argv"),
    [
        (["package-lock.json"], {}, "npm run dev", "npm ci --no-audit --no-fund"),
        (["npm-shrinkwrap.json"], {}, "npm run dev", "npm ci --no-audit --no-fund"),
        ([], {}, "npm run dev", "npm install --no-audit --no-fund"),
        ([], {}, "npx vite", "npm install --no-audit --no-fund"),
        ([], {}, "npx unocss -w src", "npm install --no-audit --no-fund"),
        ([], {}, "node_modules/.bin/vite", "npm install --no-audit --no-fund"),
        (["pnpm-lock.yaml"], {}, "npm run dev", "pnpm install --frozen-lockfile"),
        ([], {}, "pnpm dev", "pnpm install"),
        (["yarn.lock"], {}, "yarn dev", "yarn install --frozen-lockfile --non-interactive"),
        ([], {}, "yarn dev", "yarn install --non-interactive"),
        (["yarn.lock", ".yarnrc.yml"], {}, "yarn dev", "yarn install --immutable"),
        (["yarn.lock"], {"packageManager": "yarn@4.1.0+sha1.x"}, "yarn dev", "yarn install --immutable"),
        (
            ["yarn.lock"],
            {"packageManager": "yarn@1.22.0"},
            "yarn dev",
            "yarn install --frozen-lockfile --non-interactive",
        ),
        (["bun.lock"], {}, "bun dev", "bun install --frozen-lockfile"),
        (["bun.lockb"], {}, "npm run dev", "bun install --frozen-lockfile"),
        ([], {"packageManager": "pnpm@9.1.0"}, "npm run dev", "pnpm install"),
        (
            ["package-lock.json", "yarn.lock"],
            {},
            "yarn dev",
            "yarn install --frozen-lockfile --non-interactive",
        ),
        (
            ["package-lock.json", "pnpm-lock.yaml"],
            {"packageManager": "pnpm@9"},
            "npm run dev",
            "pnpm install --frozen-lockfile",
        ),
    ],
)
def test_packages_are_installed_by_the_lock_file_s_manager(
    tmp_path: Path, files: list[str], content: Mapping[str, str], command: str, argv: str
) -> None:
    package(tmp_path, **DEPENDENCIES, **content)
    for name in files:
        (tmp_path / name).touch()
    found = install(tmp_path, command)
    assert found is not None
    assert (found.folder, " ".join(found.argv)) == (tmp_path, argv)


def test_nothing_is_installed_where_nothing_is_missing(tmp_path: Path) -> None:
    assert install(tmp_path, "npm run dev") is None  # no package.json
    package(tmp_path, scripts={"dev": "vite"})
    assert install(tmp_path, "npm run dev") is None  # no dependencies
    package(tmp_path, **DEPENDENCIES)
    assert install(tmp_path, "npm run dev") is not None
    for command in ("python app.py", "npm ci && npm run dev", "yarn && yarn dev", "cd $UI && npm run dev"):
        assert install(tmp_path, command) is None
    (tmp_path / "node_modules" / ".vite").mkdir(parents=True)
    assert install(tmp_path, "npm run dev") is not None  # Vite's cache, or half an installation
    (tmp_path / "node_modules" / ".package-lock.json").touch()
    assert install(tmp_path, "npm run dev") is not None  # production packages only
    there(tmp_path, "vite")
    assert install(tmp_path, "npm run dev") is None


def there(folder: Path, name: str) -> None:
    (folder / "node_modules" / name).mkdir(parents=True, exist_ok=True)
    (folder / "node_modules" / name / "package.json").touch()


def npm_lock(path: Path, **versions: str) -> None:
    optional = {
        "node_modules/fsevents": {"version": "2.0.0", "optional": True},
        "node_modules/ui": {"link": True},
    }
    packages = {f"node_modules/{name}": {"version": version} for name, version in versions.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"packages": {"": {}, **packages, **(optional if path.name[0] != "." else {})}})
    )


def test_npm_installs_again_when_the_lock_file_names_other_versions(tmp_path: Path) -> None:
    package(tmp_path, **DEPENDENCIES)
    there(tmp_path, "vite")
    (tmp_path / "node_modules" / ".bin").mkdir()
    noted, lock = tmp_path / "node_modules" / ".package-lock.json", tmp_path / "package-lock.json"
    npm_lock(noted, vite="8.0.0", rollup="4.0.0")
    for versions in ({"vite": "8.0.0"}, {"vite": "8.0.0", "rollup": "4.0.0"}):
        npm_lock(lock, **versions)
        assert install(tmp_path, "npm run dev") is None
    for versions in (
        {"vite": "8.0.1"},
        {"vite": "8.0.0", "rollup": "4.1.0"},
        {"vite": "8.0.0", "new": "1.0.0"},
    ):
        npm_lock(lock, **versions)
        found = install(tmp_path, "npm run dev")
        assert found is not None
        assert found.argv[:2] == ("npm", "install")  # `ci` would begin by deleting all that is there


@pytest.mark.parametrize(
    ("lock", "noted", "as_it_was", "now"),
    [
        (
            "pnpm-lock.yaml",
            ".pnpm/lock.yaml",
            "x: 1\n\nimporters:\n\n  .:\n    vite: 8.0.0\n\npackages:\n\n  y: 1\n",
            "x: 1\n\nimporters:\n\n  .:\n    vite: 8.0.1\n\npackages:\n\n  y: 1\n",
        ),
        (
            "yarn.lock",
            ".yarn-integrity",
            'vite@*:\n  version "8.0.0"\n  resolved "https://x/vite-8.0.0.tgz#1"\n',
            'vite@*:\n  version "8.0.1"\n  resolved "https://x/vite-8.0.1.tgz#1"\n',
        ),
    ],
)
def test_other_managers_install_again_too(
    tmp_path: Path, lock: str, noted: str, as_it_was: str, now: str
) -> None:
    package(tmp_path, **DEPENDENCIES)
    there(tmp_path, "vite")
    path = tmp_path / "node_modules" / noted
    path.parent.mkdir(exist_ok=True)
    entries = {"lockfileEntries": {"vite@*": "https://x/vite-8.0.0.tgz#1"}}
    path.write_text(json.dumps(entries) if lock == "yarn.lock" else as_it_was.replace("y: 1", "z: 1"))
    (tmp_path / lock).write_text(as_it_was)
    assert install(tmp_path, "npm run dev") is None
    (tmp_path / lock).write_text(now)
    assert install(tmp_path, "npm run dev") is not None


def test_packages_are_found_where_node_finds_them(tmp_path: Path) -> None:
    package(tmp_path, workspaces=["ui"])
    package(tmp_path / "ui", **DEPENDENCIES)
    assert install(tmp_path, "cd ui && npm run dev") is not None
    there(tmp_path, "vite")
    (tmp_path / "node_modules" / ".package-lock.json").touch()
    assert install(tmp_path, "cd ui && npm run dev") is None
    package(tmp_path / "ui", devDependencies={"vite": "*", "vue": "*"}, scripts={"dev": "vite"})
    assert install(tmp_path, "cd ui && npm run dev") is not None


def test_a_workspace_is_installed_at_its_root(tmp_path: Path) -> None:
    package(tmp_path, workspaces={"packages": ["./apps/*", "ui"]})
    (tmp_path / "package-lock.json").touch()
    for folder in ("apps/shop", "ui", "aside"):
        package(tmp_path / folder, **DEPENDENCIES)
    shop, ui = install(tmp_path, "cd apps/shop && npm run dev"), install(tmp_path, "npm -C ui run dev")
    assert shop == ui == Install(folder=tmp_path, argv=("npm", "ci", "--no-audit", "--no-fund"))
    aside = install(tmp_path, "cd aside && npm run dev")
    assert aside is not None
    assert (aside.folder, aside.argv[1]) == (tmp_path / "aside", "install")
    (tmp_path / "ui" / "package-lock.json").touch()
    alone = install(tmp_path, "cd ui && npm run dev")
    assert alone is not None
    assert alone.folder == tmp_path / "ui"


def test_a_pnpm_workspace_is_installed_at_its_root(tmp_path: Path) -> None:
    package(tmp_path)
    (tmp_path / "pnpm-workspace.yaml").touch()
    (tmp_path / "pnpm-lock.yaml").touch()
    package(tmp_path / "ui", **DEPENDENCIES)
    found = install(tmp_path, "pnpm -C ui dev")
    assert found is not None
    assert (found.folder, found.argv[0]) == (tmp_path, "pnpm")


def test_a_package_above_the_root_is_left_alone(tmp_path: Path) -> None:
    package(tmp_path, **DEPENDENCIES)
    root = tmp_path / "root"
    (root / "ui").mkdir(parents=True)
    assert not read("cd ui && npm run dev", cwd=root, root=root).why
    assert install(root, "cd ui && npm run dev") is None


@pytest.mark.parametrize(
    ("command", "ports"),
    [
        # a server that is told no port takes its own, if it does not read ours
        ("python manage.py runserver", (8000,)),
        ("hypercorn app:app", (8000,)),
        ("python -m http.server", (8000,)),
        ("python -m bottle shop:app", (8080,)),
        ("bottle -b 127.0.0.1:$PORT shop:app", ()),
        ("litestar run", (8000,)),
        ("uv run daphne app:app", (8000,)),
        ("uvicorn app:app", ()),
        ("gunicorn app", ()),
        ("flask run", ()),
        # what it is told counts
        ("python manage.py runserver 9000", (9000,)),
        ("python manage.py runserver 0.0.0.0:9000", (9000,)),
        ("python -m http.server 9000", (9000,)),
        ("gunicorn -b 127.0.0.1:8000 app", (8000,)),
        ("gunicorn --bind=:8000 app", (8000,)),
        ("uvicorn app:app --port 8000 --workers 9000", (8000,)),
        ("cd ui && npx vite --port 5174", (5174,)),
        ("docker run -p 8000:80 x", (8000,)),
        ("docker run --rm --publish 127.0.0.1:8000:80 -p8443:443/tcp x", (8000, 8443)),
        ("podman run --publish=[::1]:8000:80 x --port 9000", (8000,)),
        ("docker compose run -p 8000:80 web", (8000,)),
        ("PORT=8000 node server.js", (8000,)),
        ("php -S 127.0.0.1:8000", (8000,)),
        # what depends on something, or is the port of another program, does not
        ("python manage.py runserver $PORT", ()),
        ("hypercorn --bind 127.0.0.1:$PORT app:app", ()),
        ("hypercorn --bind unix:/tmp/x app:app", ()),
        ("docker run -p $PORT:5432 postgres", ()),
        ("docker run -p 5432 postgres", ()),
        ("docker run -p 8125:8125/udp statsd", ()),
        ("e2e --base-url http://127.0.0.1:8000", ()),
        ("wait-for localhost:8000", ()),
        ("celery -A app worker", ()),
    ],
)
def test_the_ports_that_a_command_takes_are_known(root: Path, command: str, ports: tuple[int, ...]) -> None:
    assert read(command, cwd=root, root=root).ports == ports


@pytest.mark.parametrize("command", ["redis-server", "exec postgres -D data", "sh -c 'mysqld --console'"])
def test_a_program_that_does_not_speak_http_is_known(root: Path, command: str) -> None:
    assert not read(command, cwd=root, root=root).speaks_http
    assert read("python app.py", cwd=root, root=root).speaks_http


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("vite", False),
        ("cd web && npm run dev 2>&1", False),
        ("tsc && vite", False),
        ("npx concurrently vite 'uvicorn app:app'", True),
        ("npx run-p dev:ui dev:api", True),
        ("uvicorn app:app & vite", True),
        ("(sleep 1; make api)& vite", True),
    ],
)
def test_programs_that_run_at_the_same_time_are_told(tmp_path: Path, command: str, *, expected: bool) -> None:
    assert read(command, cwd=tmp_path, root=tmp_path).runs_others is expected


def test_a_script_may_be_named_to_concurrently(tmp_path: Path) -> None:
    scripts = {"web": "vite", "api": "python manage.py runserver"}
    (tmp_path / "package.json").write_text(json.dumps({"scripts": scripts}))
    reading = read("npx concurrently npm:web npm:api", cwd=tmp_path, root=tmp_path)
    assert reading.why.endswith("runs vite")
    assert (reading.ports, reading.serves) == ((8000,), "python manage.py runserver")
