//! The application of one node: the mapping from paths to routes.
//!
//! A function that configures, so that tests run the same routes without a socket.

use std::sync::Arc;

use actix_web::{HttpResponse, Resource, Route, guard, web};

use crate::{
    node::NodeState,
    paths,
    problem::{Kind, Problem},
    routes::{admin, appends, events, faults, health, messages, metrics, openapi, page},
};

/// A path that is served, and its methods as in a header `Allow`.
pub(crate) type Served = (&'static str, &'static str);

/// Adds every route of a node.
pub(crate) fn configure(config: &mut web::ServiceConfig, state: &Arc<NodeState>) {
    add_routes(config, state);
}

/// Does what [`configure`] does, and returns the served paths.
pub(crate) fn add_routes(config: &mut web::ServiceConfig, state: &Arc<NodeState>) -> Vec<Served> {
    config.app_data(web::Data::from(Arc::clone(state)));
    let mut table = Table {
        config,
        served: Vec::new(),
    };
    table
        .service(resource(paths::PAGE, "GET, HEAD", [get().to(page::show)]))
        .service(resource(paths::ICON, "GET, HEAD", [get().to(page::icon)]))
        .service(resource(
            paths::MESSAGES,
            "GET, HEAD, POST",
            [get().to(messages::read), web::post().to(messages::append)],
        ))
        .service(resource(
            paths::MESSAGE,
            "GET, HEAD",
            [get().to(messages::get)],
        ))
        .service(resource(
            paths::APPENDS,
            "GET, HEAD",
            [get().to(appends::list)],
        ))
        .service(resource(
            paths::HEALTH,
            "GET, HEAD",
            [get().to(health::health)],
        ))
        .service(resource(paths::LIVE, "GET, HEAD", [get().to(health::live)]))
        .service(resource(
            paths::READY,
            "GET, HEAD",
            [get().to(health::ready)],
        ))
        .service(resource(
            paths::READY_WRITE,
            "GET, HEAD",
            [get().to(health::ready_write)],
        ))
        .service(resource(
            paths::METRICS,
            "GET, HEAD",
            [get().to(metrics::show)],
        ))
        .service(resource(
            paths::EVENTS,
            "GET, HEAD",
            [get().to(events::listen)],
        ))
        .service(resource(
            paths::ADMIN_READ_ONLY,
            "POST",
            [web::post().to(admin::read_only)],
        ))
        .service(resource(
            paths::ADMIN_READ_WRITE,
            "POST",
            [web::post().to(admin::read_write)],
        ))
        .service(resource(
            paths::ADMIN_LOG_LEVEL,
            "DELETE, GET, HEAD, PUT",
            [
                get().to(admin::show_log_level),
                web::put().to(admin::set_log_level),
                web::delete().to(admin::reset_log_level),
            ],
        ))
        .service(resource(
            paths::OPENAPI,
            "GET, HEAD",
            [get().to(openapi::describe)],
        ));
    if state.faults.is_some() {
        table.service(resource(
            paths::FAULTS,
            "DELETE, GET, HEAD, PUT",
            [
                get().to(faults::show),
                web::put().to(faults::replace),
                web::delete().to(faults::clear),
            ],
        ));
    } else {
        table
            .config
            .service(web::resource(paths::FAULTS).to(faults_not_allowed));
    }
    let Table { config, served } = table;
    config.default_service(web::to(not_found));
    served
}

/// The routes, and the list of them.
struct Table<'a> {
    config: &'a mut web::ServiceConfig,
    served: Vec<Served>,
}

impl Table<'_> {
    fn service(&mut self, (served, resource): (Served, Resource)) -> &mut Self {
        self.config.service(resource);
        self.served.push(served);
        self
    }
}

/// Adds a path with its methods; every other method is answered with the list of them.
fn resource<const N: usize>(
    path: &'static str,
    allow: &'static str,
    routes: [Route; N],
) -> (Served, Resource) {
    let resource = routes
        .into_iter()
        .fold(web::resource(path), Resource::route);
    let refuse = move || async move { Problem::method_not_allowed(allow).response() };
    ((path, allow), resource.default_service(web::to(refuse)))
}

/// Returns a route for GET, and for HEAD, whose answer loses its body later.
fn get() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

async fn not_found() -> HttpResponse {
    Problem::new(Kind::NotFound, "there is no such path").response()
}

async fn faults_not_allowed() -> HttpResponse {
    Problem::new(
        Kind::NotFound,
        "this node was not started with --allow-faults",
    )
    .response()
}
