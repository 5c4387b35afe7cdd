// The page's own routes. A run is { dagId, runId }; every answer that is no success becomes an error with its reason.

export async function get(address) {
  const answer = await fetch(address, { headers: { Accept: "application/json" } });
  const document = await answer.json().catch(() => ({}));
  if (answer.ok) return document;
  throw new Error(
    answer.status === 401 ? "Your login has expired: sign in to Airflow again." : reason(document, answer),
  );
}

function reason(document, answer) {
  return typeof document.detail === "string" ? document.detail : `${answer.status} ${answer.statusText}`;
}

export function addressOf(run, part, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  const parameters = new URLSearchParams([["run_id", run.runId], ...given]);
  return new URL(`dags/${encodeURIComponent(run.dagId)}/${part}?${parameters}`, rootOfPages());
}

const rootOfPages = () => new URL(`${location.pathname.split("/run-page/")[0]}/run-page/`, location.href);

export const ofRun = (run, part, query) => get(addressOf(run, part, query));

export const runs = (query = {}) => get(new URL(`runs?${new URLSearchParams(query)}`, rootOfPages()));

export function runOfPage() {
  const parts = location.pathname.split("/");
  const query = new URLSearchParams(location.search);
  return { dagId: decodeURIComponent(parts.at(-2)), runId: query.get("run_id") ?? "", task: query.get("task") };
}
