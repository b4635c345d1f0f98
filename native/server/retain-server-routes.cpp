// retain-server-routes.cpp - in the threads of HTTP: requests with a `retention` object, replies with one, own routes

#include "retain-server.h"
#include "retain-server-state.h"

#include "server-common.h"
#include "server-context.h"
#include "server-http.h"

#include "common.h"

#include <chrono>

namespace {

using handler_t = server_http_context::handler_t;

constexpr int     MAX_PINS   = 64;
constexpr int32_t MAX_TOKENS = (1 << 24) - 1;
constexpr int     MAX_BINS   = 512;
constexpr auto    PICTURE_WITHIN = std::chrono::seconds(30); // a decode of a long prompt may be under way

enum class api { openai, anthropic };

server_http_res_ptr reply(const json & data, int status = 200) {
    auto res = std::make_unique<server_http_res>();
    res->status = status;
    res->data   = data.dump_safe();
    return res;
}

server_http_res_ptr refuse(const std::string & message, error_type type = ERROR_TYPE_INVALID_REQUEST) {
    const json error = format_error_response(message, type);
    return reply({ { "error", error } }, json_value(error, "code", 400));
}

int32_t whole_number(const json & value, const std::string & name, int32_t least, int32_t most) {
    const auto wrong = [&]() {
        return std::invalid_argument(name + " must be a whole number from " + std::to_string(least) + " to " + std::to_string(most));
    };
    if (!value.is_number_integer()) {
        throw wrong();
    }
    const double number = value.get<double>(); // an integer may be too large for any of C++
    if (!(number >= least && number <= most)) {
        throw wrong();
    }
    return (int32_t) number;
}

// the object `retention` of a request; throws what is wrong with it
retain_request parse(const json & object, int n_slots) {
    const auto & config = retain_server_config();

    retain_request res;
    if (!object.is_object()) {
        throw std::invalid_argument("retention must be an object with budget, pins and policy");
    }
    for (const auto & [name, value] : object.items()) {
        if (name == "budget") {
            const int32_t least = config.params.n_sink + config.params.n_recent + 1;
            res.budget = whole_number(value, "retention." + name, least, config.params.budget);
        } else if (name == "policy") {
            if (!value.is_string()) {
                throw std::invalid_argument("retention.policy must be the name of a policy");
            }
            res.policy = value.get<std::string>();
            std::string known;
            bool        is_known = false;
            for (int32_t i = 0; retain_policy_name(i); ++i) {
                is_known = is_known || *res.policy == retain_policy_name(i);
                known   += std::string(i == 0 ? "" : ", ") + retain_policy_name(i);
            }
            if (!is_known) {
                throw std::invalid_argument("retention.policy is none of " + known);
            }
            if (*res.policy == "gate" && config.gates.empty()) {
                throw std::invalid_argument("retention.policy gate needs gates, and the server was started without");
            }
            if (*res.policy != config.policy && n_slots > 1) {
                throw std::invalid_argument("retention.policy must be " + config.policy + ": the slots of a server share one policy; start it with --parallel 1 to choose per request");
            }
        } else if (name == "pins") {
            if (!value.is_array() || value.size() > MAX_PINS) {
                throw std::invalid_argument("retention.pins must be a list of up to " + std::to_string(MAX_PINS) + " entries");
            }
            for (size_t i = 0; i < value.size(); ++i) {
                const json & pin = value.at(i);
                if (pin.is_string() && pin.get<std::string>() == "system") {
                    res.pin_system = true;
                } else if (pin.is_array() && pin.size() == 2) {
                    const int32_t first = whole_number(pin.at((size_t) 0), "the first token of a range in retention.pins", 0, MAX_TOKENS);
                    const int32_t end   = whole_number(pin.at((size_t) 1), "the end of a range in retention.pins", first + 1, MAX_TOKENS);
                    res.pins.emplace_back(first, end);
                } else {
                    throw std::invalid_argument("an entry of retention.pins is \"system\", or [first, end) in tokens");
                }
            }
        } else {
            throw std::invalid_argument("retention has no field " + name + "; it takes budget, pins and policy");
        }
    }
    return res;
}

// put what the slot keeps into an object of a reply that has times or usage
void add_usage(json & object, int ticket, bool is_done) {
    const auto info = retain_server().find(ticket, is_done);
    if (!info) {
        return;
    }
    const auto has_object = [&](const char * name) { return object.contains(name) && object.at(name).is_object(); };
    if (has_object("usage")) {
        object.at("usage")["retention"] = info->usage();
    }
    if (has_object("timings")) { // beside them, as clients take all of them for numbers
        object["retention"] = info->usage();
    }
    if (object.contains("response") && object.at("response").is_object()) { // the Responses API wraps it
        add_usage(object.at("response"), ticket, is_done);
    }
}

// the same for the events of a stream that have any
std::string with_usage(const std::string & events, int ticket) {
    if (events.find("\"usage\":{") == std::string::npos && events.find("\"timings\":{") == std::string::npos) {
        return events;
    }
    static const std::string DATA = "data: ";

    std::string res;
    for (size_t begin = 0; begin < events.size();) {
        const size_t newline = events.find('\n', begin);
        const size_t end     = newline == std::string::npos ? events.size() : newline;
        const std::string line = events.substr(begin, end - begin);

        json object = line.rfind(DATA, 0) == 0 ? json::parse_no_throw(line.substr(DATA.size())) : json();
        if (object.is_object()) {
            const bool starts = json_value(object, "type", std::string()) == "message_start";
            const bool is_partial = object.contains("choices") && object.at("choices").is_array() && !object.at("choices").empty() &&
                    object.at("choices").at((size_t) 0).contains("finish_reason") && object.at("choices").at((size_t) 0).at("finish_reason").is_null();
            add_usage(object, ticket, !starts && !is_partial && !(object.contains("stop") && object.at("stop") == false));
            res += DATA + object.dump_safe();
        } else {
            res += line;
        }
        if (newline != std::string::npos) {
            res += '\n';
        }
        begin = end + 1;
    }
    return res;
}

// a reply of upstream's with the request that it refers to, which has to live as long
struct retained_reply : server_http_res {
    std::unique_ptr<server_http_req> request;
    server_http_res_ptr              inner;
    int                              ticket;

    retained_reply(std::unique_ptr<server_http_req> request, int ticket) : request(std::move(request)), ticket(ticket) {}

    ~retained_reply() override {
        inner.reset();
        retain_server().remove(ticket);
    }

    void set(server_http_res_ptr res) {
        inner        = std::move(res);
        content_type = inner->content_type;
        status       = inner->status;
        headers      = inner->headers;
        if (inner->is_stream()) {
            next = [this](std::string & output) {
                const bool has_next = inner->next(output);
                output = with_usage(output, ticket);
                return has_next;
            };
            return;
        }
        data = std::move(inner->data);
        if (status == 200) {
            json object = json::parse_no_throw(data);
            if (object.is_object()) {
                add_usage(object, ticket, true);
                data = object.dump_safe();
            }
        }
    }

    void on_complete() override {
        if (inner) {
            inner->on_complete();
        }
    }
};

handler_t with_retention(const handler_t & handler, api kind, int n_slots) {
    return [handler, kind, n_slots](const server_http_req & req) -> server_http_res_ptr {
        json body = json::parse_no_throw(req.body);
        if (!body.is_object()) {
            return refuse("the body of the request is not a JSON object");
        }
        retain_request settings;
        if (body.contains("retention")) {
            try {
                settings = parse(body.at("retention"), n_slots);
            } catch (const std::exception & error) {
                return refuse(error.what());
            }
            body.erase("retention");
        }
        const int ticket = retain_server().add(std::move(settings));
        if (kind == api::anthropic) {
            json stops = json_value(body, "stop_sequences", json::array());
            stops.push_back(RETAIN_TICKET_STOP + std::to_string(ticket));
            body["stop_sequences"] = stops;
        } else {
            body["n_discard"] = ticket;
        }

        auto request = std::make_unique<server_http_req>(server_http_req {
            req.params, req.headers, req.path, req.query_string, body.dump_safe(), req.files, req.should_stop,
        });
        auto & ref = *request;
        auto   res = std::make_unique<retained_reply>(std::move(request), ticket);
        res->set(handler(ref));
        return res;
    };
}

// a task that wakes the thread that decodes; after it the slots are looked at
void wake(server_context & context, const std::function<bool()> & should_stop) {
    auto reader = context.get_response_reader();
    server_task task(SERVER_TASK_TYPE_METRICS);
    task.id = reader.get_new_id();
    reader.post_task(std::move(task), true);
    reader.next(should_stop);
}

handler_t cells_handler(server_context & context, int n_slots) {
    return [&context, n_slots](const server_http_req & req) -> server_http_res_ptr {
        int slot   = 0;
        int n_bins = 0;
        try {
            slot   = std::stoi(req.get_param("slot", "0"));
            n_bins = std::stoi(req.get_param("bins", "96"));
        } catch (const std::exception &) {
            slot = -1;
        }
        if (slot < 0 || slot >= n_slots || n_bins < 1 || n_bins > MAX_BINS) {
            return refuse("slot must be 0 to " + std::to_string(n_slots - 1) + ", and bins 1 to " + std::to_string(MAX_BINS));
        }
        if (context.get_response_reader().queue_tasks.is_sleeping()) {
            return refuse("the server sleeps, and keeps nothing", ERROR_TYPE_UNAVAILABLE);
        }
        auto picture = retain_server().ask_cells(slot, n_bins);
        wake(context, req.should_stop);
        if (picture.wait_for(PICTURE_WITHIN) != std::future_status::ready) {
            return refuse("the server is too busy for a picture of the cells", ERROR_TYPE_UNAVAILABLE);
        }
        return reply(picture.get());
    };
}

} // namespace

void retain_server_routes(const common_params & params, server_context & context, server_routes & routes, const server_http_context & http) {
    if (!retain_server_config().is_enabled) {
        return;
    }
    const int n_slots = params.n_parallel;

    for (handler_t server_routes::* route : {
            &server_routes::post_completions, &server_routes::post_completions_oai, &server_routes::post_chat_completions,
            &server_routes::post_responses_oai, &server_routes::post_infill }) {
        routes.*route = with_retention(routes.*route, api::openai, n_slots);
    }
    routes.post_anthropic_messages = with_retention(routes.post_anthropic_messages, api::anthropic, n_slots);

    routes.post_slots = [&context, n_slots, handler = routes.post_slots](const server_http_req & req) {
        auto res = handler(req);
        retain_server().free_slots(n_slots);
        auto seen = retain_server().ask_cells(n_slots - 1, 1); // answered when all slots were looked at anew
        wake(context, req.should_stop);
        seen.wait_for(PICTURE_WITHIN);
        return res;
    };

    routes.get_metrics = [metrics = routes.get_metrics](const server_http_req & req) {
        auto res = metrics(req);
        if (res->status == 200 && !res->is_stream()) {
            res->data += retain_server().to_metrics();
        }
        return res;
    };

    http.get("/retention",       [](const server_http_req &) { return reply(retain_server().to_json()); });
    http.get("/retention/cells", cells_handler(context, n_slots));
}
