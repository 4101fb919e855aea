//! `GET /metrics`: the counters and gauges of all parts, for Prometheus.

use super::{Operation, Routed};
use crate::api::{Api, Refusal, Reply};
use crate::metrics::{Exposition, MEDIA_TYPE};

/// Parses the head. The query is ignored.
pub fn parse(_: Routed<'_>) -> Result<Operation, Refusal> {
    Ok(Operation::Survey(reply))
}

fn reply(api: &Api) -> Reply {
    let mut exposition = Exposition::default();
    api.metrics.report(&mut exposition);
    api.storage.report(&mut exposition);
    api.access.report(&mut exposition);
    Reply::metrics(MEDIA_TYPE, exposition.into_text())
}
