// retain-archs.cpp - a random model of every architecture of llama.cpp, in a cache of fixed size
//
// Of each that is accepted: logits without eviction are those of stock llama.cpp; the budget holds; a saved state goes on
// with the same logits; and what was in the cache before changes nothing. Each other one is refused before anything is
// allocated for its cache.
//
//     native-retain-archs              a quick run over all of them
//     native-retain-archs --long       more kinds of cells and ubatches
//     native-retain-archs --list       rows of the tables in docs/architectures.md, which docs/tools/architectures.py writes
//     native-retain-archs NAME...      these alone

#include "arch-models.h"
#include "retain-mixed.h"
#include "retain.h"
#include "testing.h"

#include "llama-context.h"
#include "llama-model.h"

#include <cfloat>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

namespace fs = std::filesystem;

namespace {

constexpr int    N_TOKENS = 96;
constexpr double MOST     = 1e-7; // of f32 cells: GELU is read from a table of f16 numbers, and windows add in another order

using tokens_t = std::vector<llama_token>;

struct options {
    bool full = false;
    bool list = false;
    std::set<std::string> names; // empty: all
};

tokens_t random_tokens(int seed, int n) {
    std::mt19937 rng(seed);
    tokens_t res(n);
    for (auto & t : res) {
        t = std::uniform_int_distribution<int>(0, 127)(rng);
    }
    return res;
}

tokens_t slice(const tokens_t & tokens, size_t begin, size_t end) {
    return tokens_t(tokens.begin() + begin, tokens.begin() + end);
}

llama_context_params context_params(ggml_type type, int n_ubatch) {
    llama_context_params res = llama_context_default_params();
    res.n_ctx     = 512;
    res.n_batch   = 512;
    res.n_ubatch  = n_ubatch;
    res.n_threads = res.n_threads_batch = 1;
    res.type_k    = res.type_v = type;
    res.swa_full  = false;
    res.no_perf   = true;
    res.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED; // it rounds f32 cells to f16
    return res;
}

retain_params retention(int budget, int buffer) {
    retain_params res = retain_default_params();
    res.budget = budget;
    res.buffer = buffer;
    res.n_sink = 2;
    res.policy = "window";
    return res;
}

llama_context_ptr stock_context(const variant & v, llama_model * model, ggml_type type, int n_ubatch) {
    llama_context_ptr res(llama_init_from_model(model, context_params(type, n_ubatch)));
    if (!res) {
        fprintf(stderr, "%s: no stock context\n", v.name.c_str());
        exit(1);
    }
    return res;
}

llama_context_ptr retained_context(
        const variant & v, llama_model * model, ggml_type type, int n_ubatch, int budget, int buffer, float recall = 0.0f) {
    retain_params rp = retention(budget, buffer);
    rp.recall        = recall;
    rp.archive_type  = GGML_TYPE_Q8_0;
    rp.archive_bytes = recall > 0.0f ? 256 << 20 : 0;
    llama_context_ptr res(retain_init_from_model(model, context_params(type, n_ubatch), &rp));
    if (!res) {
        fprintf(stderr, "%s: refused: %s\n", v.name.c_str(), retain_last_error());
        exit(1);
    }
    return res;
}

// logits of all tokens, decoded from position pos on
std::vector<float> decode(const variant & v, llama_context * ctx, const tokens_t & tokens, llama_pos pos = 0) {
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));

    llama_batch batch = llama_batch_init(tokens.size(), 0, 1);
    batch.n_tokens = tokens.size();
    for (size_t i = 0; i < tokens.size(); ++i) {
        batch.token[i]     = tokens[i];
        batch.pos[i]       = pos + i;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i]    = true;
    }
    const int rc = llama_decode(ctx, batch);
    llama_batch_free(batch);
    if (rc != 0) {
        fprintf(stderr, "%s: llama_decode returned %d: %s\n", v.name.c_str(), rc, retain_last_error());
        exit(1);
    }

    std::vector<float> res;
    for (size_t i = 0; i < tokens.size(); ++i) {
        const float * row = llama_get_logits_ith(ctx, i);
        res.insert(res.end(), row, row + n_vocab);
    }
    return res;
}

void expect(bool ok, const variant & v, const std::string & what) {
    if (!ok) {
        fprintf(stderr, "%s: %s\n", v.name.c_str(), what.c_str());
        exit(1);
    }
}

// nmse, where two rows of zeros are equal
void expect_close(const std::vector<float> & got, const std::vector<float> & want, double most, const variant & v, const char * what) {
    for (const float x : got) {
        expect(std::isfinite(x), v, std::string(what) + ": a logit is not finite");
    }
    expect(got.size() == want.size(), v, std::string(what) + ": not as many logits");

    // Chameleon's graph rules out picture tokens in the first row of a ubatch only, and other ubatches have other first rows
    auto   a = got;
    auto   b = want;
    size_t n_ruled_out = 0;
    for (size_t i = 0; i < a.size() && v.arch == LLM_ARCH_CHAMELEON; ++i) {
        if (a[i] == -FLT_MAX || b[i] == -FLT_MAX) {
            a[i] = b[i] = 0.0f;
            ++n_ruled_out;
        }
    }
    expect(n_ruled_out < a.size(), v, std::string(what) + ": all logits are ruled out");
    const double diff = a == b ? 0.0 : nmse(a, b);
    char text[200];
    snprintf(text, sizeof(text), "%s: logits differ, nmse %.2e, at most %.2e", what, diff, most);
    expect(diff <= most, v, text);
}

// checks

void check_equal_to_stock(const variant & v, llama_model * model, ggml_type type, int n_ubatch) {
    const auto tokens = random_tokens(1, N_TOKENS);

    const auto stock    = stock_context(v, model, type, n_ubatch);
    const auto retained = retained_context(v, model, type, n_ubatch, 512, 64);
    const double most = type == GGML_TYPE_F32 ? MOST : 1e-5;

    const auto want = decode(v, stock.get(), tokens);
    expect_close(decode(v, retained.get(), tokens), want, most, v, "a prompt");

    const auto more = random_tokens(2, 4);
    for (size_t i = 0; i < more.size(); ++i) {
        const auto one = slice(more, i, i + 1);
        const auto next = decode(v, stock.get(), one, N_TOKENS + i);
        expect_close(decode(v, retained.get(), one, N_TOKENS + i), next, most, v, "a token");
    }
}

constexpr int BUDGET = 24;
constexpr int BUFFER = 16;
constexpr int UBATCH = 16;

void check_budget(const variant & v, llama_model * model) {
    const auto ctx    = retained_context(v, model, GGML_TYPE_F32, UBATCH, BUDGET, BUFFER);
    const auto tokens = random_tokens(3, 200);

    retain_stats stats;
    int64_t n_fixed = -1;
    for (size_t pos = 0; pos < tokens.size();) {
        const size_t n = std::min<size_t>(pos % 3 == 0 ? 40 : 1, tokens.size() - pos);
        decode(v, ctx.get(), slice(tokens, pos, pos + n), pos);
        pos += n;

        expect(retain_get_stats(ctx.get(), &stats), v, "no statistics");
        expect(stats.n_cells <= stats.n_cells_max && stats.n_cells_peak <= stats.n_cells_max, v, "more cells than promised");
        expect(stats.n_cells_max == stats.n_cell_lists*(BUDGET + BUFFER), v, "another promise than the budget makes");
        expect(n_fixed < 0 || stats.bytes_fixed == n_fixed, v, "windows and states have grown");
        n_fixed = stats.bytes_fixed;
    }
    expect(stats.n_evictions > 0, v, "nothing was evicted");

    const bool mixed = dynamic_cast<retain_mixed *>(ctx->get_memory()) != nullptr;
    expect(mixed == (stats.bytes_fixed > 0), v, "windows and states have no bytes");
}

std::vector<uint8_t> state_of(llama_context * ctx) {
    std::vector<uint8_t> res(llama_state_seq_get_size(ctx, 0));
    CHECK(llama_state_seq_get_data(ctx, res.data(), res.size(), 0) == res.size());
    return res;
}

void check_state(const variant & v, llama_model * model) {
    const auto ctx = retained_context(v, model, GGML_TYPE_F32, UBATCH, BUDGET, BUFFER);
    decode(v, ctx.get(), random_tokens(4, 100));
    const auto state = state_of(ctx.get());

    const auto more = random_tokens(5, 30);
    const auto want = decode(v, ctx.get(), more, 100);

    const auto other = retained_context(v, model, GGML_TYPE_F32, UBATCH, BUDGET, BUFFER);
    decode(v, other.get(), random_tokens(6, 50));
    expect(llama_state_seq_set_data(other.get(), state.data(), state.size(), 0) == state.size(), v, "a state is not taken");
    expect_close(decode(v, other.get(), more, 100), want, MOST, v, "a restored state");

    auto damaged = state;
    damaged[damaged.size()/2] ^= 1;
    expect(llama_state_seq_set_data(other.get(), damaged.data(), damaged.size(), 0) == 0, v, "a damaged state is taken");
}

// With as many recalled as there are, the full layers see all cells that a full cache has, of which the archived ones are rounded.
// Random models have heads of sizes that the archive may not take.
// Returns whether it did.
bool check_recall(const variant & v, llama_model * model, const std::vector<retain_layer> & layers) {
    if (layers[0].n_embd_k%32 != 0 || layers[0].n_embd_v%32 != 0) {
        return false;
    }
    constexpr int N = 80;

    const auto make   = [&]() { return retained_context(v, model, GGML_TYPE_F32, UBATCH, N, BUFFER, 0.75f); };
    const auto ctx    = make();
    const auto tokens = random_tokens(12, N);
    const auto far    = decode(v, ctx.get(), tokens);
    const auto near   = decode(v, retained_context(v, model, GGML_TYPE_F32, UBATCH, 2*N, BUFFER).get(), tokens);
    expect_close(far, near, 0.01, v, "all recalled");

    retain_stats stats;
    expect(retain_get_stats(ctx.get(), &stats), v, "no statistics");
    expect(stats.n_archived > 0 && stats.n_archived + stats.n_cells == N*stats.n_cell_lists, v, "cells are lost");

    const auto state = state_of(ctx.get());
    const auto want  = decode(v, ctx.get(), random_tokens(13, 5), N);
    const auto other = make();
    expect(llama_state_seq_set_data(other.get(), state.data(), state.size(), 0) == state.size(), v, "a state with an archive is not taken");
    expect_close(decode(v, other.get(), random_tokens(13, 5), N), want, MOST, v, "a restored archive");
    return true;
}

// cut the sequence back to n tokens, or remove all of it; returns how many are left
int cut_back(llama_context * ctx, int n) {
    auto * mem = llama_get_memory(ctx);
    if (n < retain_rollback_limit(ctx, 0) || !llama_memory_seq_rm(mem, 0, n, -1)) {
        n = 0;
        CHECK(llama_memory_seq_rm(mem, 0, -1, -1));
    }
    CHECK(llama_memory_seq_pos_max(mem, 0) == n - 1);
    return n;
}

void check_history(const variant & v, llama_model * model, int budget) {
    const auto make = [&]() { return retained_context(v, model, GGML_TYPE_F32, UBATCH, budget, BUFFER); };

    const auto first  = random_tokens(7, 100);
    const auto second = random_tokens(8, 100);
    const auto fresh  = decode(v, make().get(), second);

    const auto ctx = make();
    decode(v, ctx.get(), first);
    cut_back(ctx.get(), 0);
    expect_close(decode(v, ctx.get(), second), fresh, MOST, v, "a second prompt");

    llama_memory_clear(llama_get_memory(ctx.get()), true);
    expect_close(decode(v, ctx.get(), second), fresh, MOST, v, "after a cleared memory");

    // the last tokens are edited
    auto edited = second;
    std::copy_n(first.begin(), 10, edited.end() - 10);
    const auto changed = decode(v, make().get(), edited);
    const int  n_kept  = cut_back(ctx.get(), 90);
    const auto got     = decode(v, ctx.get(), slice(edited, n_kept, edited.size()), n_kept);
    if (n_kept == 0 || budget >= 100) { // otherwise evictions fall elsewhere
        expect_close(got, std::vector<float>(changed.end() - got.size(), changed.end()), MOST, v, "an edited history");
    }
}

// gates

// Gates that are one random projection each, on the layers of the pool.
void write_gates(const std::string & path, const llama_model & model, const std::vector<retain_layer> & layers) {
    const int64_t n_embd = model.hparams.n_embd;

    const gguf_context_ptr file(gguf_init_empty());
    gguf_set_val_str(file.get(), "general.type", "adapter");
    gguf_set_val_str(file.get(), "general.architecture", model.arch_name().c_str());
    gguf_set_val_str(file.get(), "adapter.type", "retention_gate");
    gguf_set_val_u32(file.get(), "retention_gate.version", 2);
    gguf_set_val_str(file.get(), "retention_gate.variant", "linear");
    gguf_set_val_str(file.get(), "retention_gate.score", "decay");
    gguf_set_val_u32(file.get(), "retention_gate.block_count", model.hparams.n_layer_all);
    gguf_set_val_u32(file.get(), "retention_gate.embedding_length", n_embd);

    const ggml_context_ptr ctx(ggml_init({ layers.size()*(n_embd + 64)*64*sizeof(float) + (1u << 20), nullptr, false }));
    std::mt19937 rng(9);
    std::vector<uint32_t> indices;
    std::vector<uint32_t> heads;
    for (const auto & layer : layers) {
        indices.push_back(layer.il);
        heads.push_back(layer.n_head_kv);

        ggml_tensor * w = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_embd, layer.n_head_kv);
        ggml_tensor * b = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, layer.n_head_kv);
        for (ggml_tensor * t : { w, b }) {
            const auto values = random_normal(rng, ggml_nelements(t), 0.1f);
            memcpy(t->data, values.data(), ggml_nbytes(t));
        }
        const std::string name = "blk." + std::to_string(layer.il) + ".retention_score";
        ggml_set_name(w, (name + ".weight").c_str());
        ggml_set_name(b, (name + ".bias").c_str());
        gguf_add_tensor(file.get(), w);
        gguf_add_tensor(file.get(), b);
    }
    gguf_set_arr_data(file.get(), "retention_gate.layers",        GGUF_TYPE_UINT32, indices.data(), indices.size());
    gguf_set_arr_data(file.get(), "retention_gate.head_count_kv", GGUF_TYPE_UINT32, heads.data(), heads.size());
    CHECK(gguf_write_to_file(file.get(), path.c_str(), false));
}

// whether gates can read what the layers' projections read; then every cell must have a log beta of its own
bool check_gates(const variant & v, llama_model * model, const std::vector<retain_layer> & layers) {
    const fs::path path = fs::temp_directory_path()/("retain-archs-" + std::to_string(std::random_device()()) + ".gguf");
    write_gates(path.string(), *model, layers);

    retain_params rp = retention(64, 32);
    const std::string name = path.string();
    rp.gates  = name.c_str();
    rp.policy = "gate";
    const llama_context_ptr ctx(retain_init_from_model(model, context_params(GGML_TYPE_F32, 32), &rp));
    fs::remove(path);
    if (!ctx) {
        const std::string reason = retain_last_error();
        expect(reason.find("gates cannot read the input of attention") != std::string::npos, v, "gates are refused: " + reason);
        return false;
    }
    decode(v, ctx.get(), random_tokens(10, 50));

    std::vector<float> log_beta(50);
    for (const auto & layer : layers) {
        for (int h = 0; h < layer.n_head_kv; ++h) {
            expect(retain_get_cells(ctx.get(), 0, layer.il, h, nullptr, nullptr, log_beta.data(), 50) == 50, v, "cells are missing");
            for (const float x : log_beta) {
                expect(std::isfinite(x) && x < 0.0f, v, "a cell has no log beta");
            }
            expect(std::set<float>(log_beta.begin(), log_beta.end()).size() > 10, v, "log betas do not depend on the token");
        }
    }
    return true;
}

// guards

// A context that drafts for another one keeps a stock cache, also while retention is asked for.
void check_draft_context(const variant & v, llama_model * model) {
    llama_context_params params = context_params(GGML_TYPE_F32, 32);
    params.ctx_type = LLAMA_CONTEXT_TYPE_MTP;
    const retain_params   rp = retention(64, 32);
    const llama_context_ptr ctx(retain_init_from_model(model, params, &rp));
    expect(ctx && !retain_is_enabled(ctx.get()), v, "a drafting context has no stock cache");
}

// all of it

enum class outcome { accepted, refused, not_made };

struct report {
    std::string kind;  // of memory
    bool        gates; // whether gates can be used
    std::string reason;
    outcome     what;
    bool        recalls = false; // whether recall was tried
};

report try_one(const variant & v, const options & opts) {
    const auto model = make_model(v);
    if (!model) {
        return { "", false, "", outcome::not_made };
    }

    const retain_params rp = retention(64, 32);
    const llama_context_ptr probe(retain_init_from_model(model.get(), context_params(GGML_TYPE_F32, 32), &rp));
    if (!probe) {
        return { "", false, retain_last_error(), outcome::refused };
    }
    expect(retain_is_enabled(probe.get()), v, "is accepted, and has a stock cache");

    const auto * mixed = dynamic_cast<const retain_mixed *>(probe->get_memory());
    const std::string kind = !mixed ? "plain" : mixed->get_window() ? "windows" : "hybrid";
    const bool gates = check_gates(v, model.get(), retain_find_memory(probe->get_memory())->get_layers());
    if (opts.list) {
        return { kind, gates, "", outcome::accepted };
    }

    if (model->hparams.n_layer_nextn > 0) {
        check_draft_context(v, model.get());
    }
    check_equal_to_stock(v, model.get(), GGML_TYPE_F32, 32);
    if (opts.full) {
        check_equal_to_stock(v, model.get(), GGML_TYPE_F32, 128);
        check_equal_to_stock(v, model.get(), GGML_TYPE_F16, 32);
        check_equal_to_stock(v, model.get(), GGML_TYPE_F16, 128);
        check_history(v, model.get(), 512);
    }
    check_budget(v, model.get());
    check_state(v, model.get());
    const bool recalls = check_recall(v, model.get(), retain_find_memory(probe->get_memory())->get_layers());
    check_history(v, model.get(), BUDGET);
    return { kind, gates, "", outcome::accepted, recalls };
}

// its line in docs/architectures.md
std::string row_of(const variant & v, const report & found) {
    const std::string arch = llm_arch_name(v.arch);
    const std::string name = "| `" + arch + "`" + v.name.substr(arch.size());
    if (found.what == outcome::accepted) {
        return name + " | " + found.kind + " | " + (found.gates ? "yes" : "no") + " |";
    }
    const size_t colon = found.reason.find(": ");
    return name + " | " + (colon == std::string::npos ? found.reason : found.reason.substr(colon + 2)) + " |";
}

// whether the page has these rows and no others
void check_page(const fs::path & path, const std::vector<std::string> & rows) {
    std::ifstream file(path);
    std::set<std::string> written;
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("| `", 0) == 0) {
            written.insert(line);
        }
    }
    for (const auto & row : rows) {
        if (written.erase(row) == 0) {
            fprintf(stderr, "%s lacks '%s'; run docs/tools/architectures.py\n", path.string().c_str(), row.c_str());
            exit(1);
        }
    }
    if (!written.empty()) {
        fprintf(stderr, "%s has '%s'; run docs/tools/architectures.py\n", path.string().c_str(), written.begin()->c_str());
        exit(1);
    }
}

} // namespace

int main(int argc, char ** argv) {
    options opts;
    for (int i = 1; i < argc; ++i) {
        const std::string arg = argv[i];
        if (arg == "--long") {
            opts.full = true;
        } else if (arg == "--list") {
            opts.list = true;
        } else {
            opts.names.insert(arg);
        }
    }
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();

    std::map<outcome, int> counts;
    std::vector<std::string> rows;
    std::string not_made;
    int n_recall = 0;
    for (const auto & v : all_variants()) {
        if (!opts.names.empty() && !opts.names.count(llm_arch_name(v.arch))) {
            continue;
        }
        const auto found = try_one(v, opts);
        ++counts[found.what];
        n_recall += found.recalls;
        if (found.what != outcome::not_made) {
            rows.push_back(row_of(v, found));
        } else {
            not_made += (not_made.empty() ? "" : ", ") + std::string("`") + v.name + "`";
        }
    }
    llama_backend_free();

    if (opts.list) {
        for (const auto & row : rows) {
            printf("%s\n", row.c_str());
        }
    } else if (const char * docs = getenv("RETAIN_DOCS"); docs && opts.names.empty()) {
        check_page(fs::path(docs)/"architectures.md", rows);
    }

    fprintf(stderr, "%d accepted, %d of them with recall, %d refused, %d not made: %s\n",
            counts[outcome::accepted], n_recall, counts[outcome::refused], counts[outcome::not_made], not_made.c_str());
    return 0;
}
