"""The page of a run: how training goes, who holds which slice, what was merged, validated and promoted.

| module | does |
|---|---|
| `app` | puts the routes together |
| `access` | who may see what; the run directory of a request |
| `headers` | what every answer tells the browser to refuse |
| `assets` | the pages and their static files, and the chart library's |
| `airflow_runs` | what Airflow's database knows of runs |
| `run_routes` | a run's documents as JSON |
| `log_routes` | the ranks' logs |
| `static/` | the pages: HTML, CSS and ES modules, without a build step |

It only reads, has no route that writes, and reads nothing outside the run directory and the model store.
"""
