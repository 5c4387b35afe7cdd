"""Who gets what from the run page: nobody anonymous, nobody without the right, nothing outside the run root."""

import json
from typing import Any

import httpx
import pytest

from tests.plugins.conftest import DAG, PASSWORDS

PAGES = ["/run-page/", "/run-page/runs", "/run-page/compare"]
OF_A_RUN = ["run", "overview", "metrics", "shard-map", "merge", "validation", "versions", "ranks"]
OF_A_LOG = ["log", "log-file"]


def get(site, user, part, run_id, dag=DAG, **query: Any) -> httpx.Response:
    with site.client(user) as client:
        return client.get(f"/run-page/dags/{dag}/{part}", params={"run_id": run_id, **query})


def every_route():
    """Every route of the application that Airflow mounts, with its methods."""
    from plugins.run_page.app import application

    return [(route.path, set(route.methods)) for route in application().routes]


def test_the_routes_tested_here_are_all_that_there_are():
    from plugins.run_page.assets import assets

    assert assets()
    known = {path.removeprefix("/run-page") for path in PAGES}
    known |= {f"/dags/{{dag_id}}/{part}" for part in [*OF_A_RUN, *OF_A_LOG, "plot"]}
    assert {path for path, _ in every_route()} == known | {"/static/{version}/{name}"}


def test_no_route_writes():
    assert {method for _, methods in every_route() for method in methods} <= {"GET", "HEAD"}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_an_admin_cannot_write_either(site, finished_run, method):
    with site.client("ada") as client:
        assert client.request(method, f"/run-page/dags/{DAG}/overview").status_code == 405


@pytest.mark.parametrize("user", PASSWORDS)
def test_the_schema_is_not_published(site, user):
    with site.client(user) as client:
        for path in ("openapi.json", "docs", "redoc"):
            answer = client.get(f"/run-page/{path}")
            assert answer.status_code == 404, path


def test_anonymous_requests_are_refused_before_anything_is_looked_at(site, finished_run):
    for part in [*OF_A_RUN, *OF_A_LOG, "plot"]:
        assert get(site, None, part, finished_run).status_code == 401, part
        assert get(site, None, part, "no such run").status_code == 401, part
    with site.client(None) as client:
        for page in [*PAGES, "/run-page/static/x/style.css"]:
            assert client.get(page).status_code == 401, page


def test_a_forged_token_is_refused(site, finished_run):
    with site.client(None) as client:
        client.cookies.set("_token", site.token("ada")[:-8] + "AAAAAAAA")
        answer = client.get(f"/run-page/dags/{DAG}/overview", params={"run_id": finished_run})
        assert answer.status_code in (401, 403)


def test_without_the_right_on_the_dag_nothing_of_a_run_is_shown(site, finished_run):
    for part in [*OF_A_RUN, *OF_A_LOG, "plot"]:
        query = {"launch": "1", "rank": 0, "name": "loss.png" if part == "plot" else "loss"}
        assert get(site, "otto", part, finished_run, **query).status_code == 403, part
    with site.client("otto") as client:
        assert client.get("/run-page/runs").json() == {"runs": [], "has_more": False, "dags": []}


@pytest.mark.parametrize("user", ["ada", "vera"])
def test_a_viewer_reads_what_an_admin_reads(site, finished_run, user):
    for part in OF_A_RUN:
        assert get(site, user, part, finished_run).status_code == 200, part
    log = get(site, user, "log", finished_run, launch="1", rank=3)
    assert log.json()["text"].endswith("step: 199, loss is 0.0115\n")
    with site.client(user) as client:
        rows = client.get("/run-page/runs").json()["runs"]
    assert finished_run in [row["run_id"] for row in rows]


def test_the_list_shows_only_dags_that_the_user_may_see(site, finished_run, monkeypatch):
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    monkeypatch.setattr(SimpleAuthManager, "filter_authorized_dag_ids", lambda *_, **__: {"retraining"})
    with site.client("vera") as client:
        assert client.get("/run-page/runs").json()["runs"] == []


@pytest.mark.parametrize("dag", ["~", "..", "%2e%2e", "../sharded_training", "..%2f..%2fetc", "sharded_training%00"])
@pytest.mark.parametrize("run_id", ["../../../../etc/passwd", "..", "", "/etc", "\x00", "a/../../b", "~"])
def test_no_id_leads_out_of_the_run_root(site, finished_run, dag, run_id):
    for part in ("overview", "metrics", "shard-map", "merge", "ranks"):
        answer = get(site, "ada", part, run_id, dag=dag)
        assert answer.status_code in (403, 404, 422), (part, answer.text)


@pytest.mark.parametrize("name", ["../report.json", "report.json", "/etc/passwd", "%2e%2e/config.json", "..png", ""])
def test_no_plot_but_those_of_the_validation(site, finished_run, name):
    assert get(site, "ada", "plot", finished_run, name=name).status_code == 404


@pytest.mark.parametrize("launch", ["..", "../..", "earlier", "earlier/../1", "/etc", "validate/.."])
def test_no_log_but_those_of_the_tries(site, finished_run, launch):
    assert get(site, "ada", "log", finished_run, launch=launch, rank=0).status_code == 404
    assert get(site, "ada", "log-file", finished_run, launch=launch, rank=0).status_code == 404


@pytest.mark.parametrize("rank", ["-1", "0/../0", "1e3", "x"])
def test_a_rank_is_a_number(site, finished_run, rank):
    assert get(site, "ada", "log", finished_run, launch="1", rank=rank).status_code == 422


def test_symbolic_links_out_of_the_run_are_not_followed(site, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"step": 1, "loss": 1.0, "secret": "do not show"}) + "\n")
    run = site.trigger("links")
    for link in (
        run.config_file,
        run.metrics_file,
        run.report_file,
        run.merge_file,
        run.validation / "loss.png",
        run.rank_log(0),
        run.path / "src_strategy.ckpt",
        run.path / "failures" / "train.json",
    ):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(secret)
    for part in ("overview", "metrics", "merge", "validation", "shard-map", "ranks", "plot", "log", "log-file"):
        answer = get(site, "ada", part, "links", launch="1", rank=0, name="loss.png" if part == "plot" else "loss")
        assert answer.status_code == 422, part
        assert "do not show" not in answer.text


def test_a_run_directory_that_is_a_link_is_not_followed(site, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text('{"secret": "do not show"}')
    run = site.trigger("linked")
    run.path.parent.mkdir(parents=True, exist_ok=True)
    run.path.symlink_to(outside)
    answer = get(site, "ada", "overview", "linked")
    assert (answer.status_code, "do not show" in answer.text) == (422, False)


def test_an_unknown_run_is_said_to_be_unknown(site):
    answer = get(site, "ada", "overview", "never")
    assert (answer.status_code, answer.json()["detail"]) == (404, f"there is no run 'never' of {DAG}")


def test_a_run_that_has_not_started_is_shown_as_such(site):
    site.trigger("waiting")
    assert get(site, "ada", "overview", "waiting").json()["has_folder"] is False


def test_every_answer_carries_a_content_security_policy(site, finished_run):
    answers = [get(site, "ada", part, finished_run) for part in ("run", "overview", "no-such-part")]
    answers += [get(site, None, "overview", finished_run), get(site, "otto", "overview", finished_run)]
    for answer in answers:
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert policy["frame-ancestors"] == "'self'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_a_page_has_no_inline_script_and_says_nothing_of_its_run(site, finished_run):
    text = get(site, "ada", "run", '"><script>alert(1)</script>').text
    assert text == get(site, "ada", "run", finished_run).text
    assert all("src=" in tag for tag in text.split("<script")[1:])


def test_a_log_is_downloaded_as_text_never_shown_as_a_page(site, finished_run):
    answer = get(site, "vera", "log-file", finished_run, launch="1", rank=2)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="rank.2.log"'


def test_static_files_keep_for_good_under_the_digest_of_their_content(site):
    from plugins.run_page.assets import digest

    with site.client("vera") as client:
        kept = client.get(f"/run-page/static/{digest()}/bokeh.min.js")
        assert kept.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert client.get("/run-page/static/older/bokeh.min.js").status_code == 404
        assert client.get(f"/run-page/static/{digest()}/..%2fapp.py").status_code == 404


def test_airflow_loads_the_plugin_and_nothing_beside_it(site):
    with site.client(None) as client:
        client.headers["Authorization"] = f"Bearer {site.token('ada')}"
        assert client.get("/api/v2/plugins/importErrors").json()["import_errors"] == []
        plugins = client.get("/api/v2/plugins").json()["plugins"]
    views = {view["destination"]: view for plugin in plugins for view in plugin["external_views"]}
    assert set(views) == {"nav", "dag_run", "task_instance"}
    assert views["dag_run"]["href"] == "/run-page/dags/{DAG_ID}/run?run_id={RUN_ID}"


def test_one_damaged_run_hides_no_other_in_the_list(site, finished_run):
    loop = site.trigger("a_loop").path
    loop.symlink_to(loop)
    config = site.trigger("a_looping_file").config_file
    config.parent.mkdir(parents=True)
    config.symlink_to(config)
    folder = site.trigger("a_file_for_a_folder").validation
    folder.parent.mkdir(parents=True)
    folder.write_text("")
    with site.client("ada") as client:
        answer = client.get("/run-page/runs", params={"limit": 200})
        assert answer.status_code == 200
        listed = {run["run_id"]: run for run in answer.json()["runs"]}
        for run_id in ("a_loop", "a_looping_file", "a_file_for_a_folder"):
            assert listed[run_id].get("problem") or not listed[run_id]["has_folder"]
            overview = client.get(f"/run-page/dags/{DAG}/overview", params={"run_id": run_id})
            assert overview.status_code in (200, 422)
        assert listed[finished_run]["metric"] == "accuracy"
