// device.cpp - decoding and reading prompts on a GPU, with a retention cache and with a stock one, in one process
//
//   BENCH=$(python native/builder bench -D RETAIN_CUDA=ON)
//   $BENCH/bench-device --model m.gguf --gates m.gates.gguf --sequences 1 --budget 2048 --depths 512,8192,32768
//
// All tokens are random. At each depth: the time to read a prompt of that length, then the median time of a step that writes
// one token of each sequence. `ours` has gates, `window` none. Evictions fall into the steps that are timed; their share is told.

#include "retain.h"
#include "timing.h"

#include "llama.h"

#include <map>

using namespace bench;

namespace {

struct options {
    std::string model, gates, depths = "512,8192,32768", sides = "stock,ours,window", type = "f16";
    std::string sequences = "1", budget = "2048", steps = "256", ubatch = "512";
};

// what a side needed at a depth
struct point {
    double read_s  = 0.0; // the whole prompt
    double step_ms = 0.0; // median
    double mean_ms = 0.0;
    double evict   = 0.0; // share of the steps' time in evictions
    double read_evict = 0.0; // of the prompt's
};

class session {
public:
    session(llama_model * model, const options & opt, const std::string & side, int64_t n_ctx_seq) :
            n_seq(number_of(opt.sequences)), n_vocab(llama_vocab_n_tokens(llama_model_get_vocab(model))) {
        llama_context_params cp = llama_context_default_params();
        cp.n_ctx           = n_ctx_seq*n_seq;
        cp.n_batch         = 2048;
        cp.n_ubatch        = number_of(opt.ubatch);
        cp.n_seq_max       = n_seq;
        cp.kv_unified      = false;
        cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        cp.type_k = cp.type_v = type_of(opt.type);
        cp.n_threads = cp.n_threads_batch = 4;

        retain_params rp = retain_default_params();
        rp.budget = number_of(opt.budget);
        rp.policy = side == "ours" ? "gate" : "window";
        rp.gates  = side == "ours" ? opt.gates.c_str() : nullptr;

        ctx = side == "stock" ? llama_init_from_model(model, cp) : retain_init_from_model(model, cp, &rp);
        if (!ctx) {
            fprintf(stderr, "%s: no context: %s\n", side.c_str(), retain_last_error());
            exit(1);
        }
        batch = llama_batch_init(cp.n_batch, 0, 1);
    }

    ~session() {
        llama_batch_free(batch);
        llama_free(ctx);
    }

    // read random tokens up to a depth, sequence after sequence; seconds
    double read(int64_t depth) {
        const int64_t t_start = ggml_time_us();
        for (int s = 0; s < n_seq; ++s) {
            for (int64_t pos = n_past; pos < depth; pos += batch.n_tokens) {
                batch.n_tokens = std::min<int64_t>(2048, depth - pos);
                for (int i = 0; i < batch.n_tokens; ++i) {
                    set(i, s, pos + i, pos + i + 1 == depth);
                }
                decode();
            }
        }
        llama_synchronize(ctx);
        n_past = depth;
        return (ggml_time_us() - t_start)*1e-6;
    }

    // write n tokens of each sequence; milliseconds of each step
    std::vector<double> write(int64_t n) {
        std::vector<double> res;
        for (int64_t i = 0; i < n; ++i) {
            const int64_t t_start = ggml_time_us();
            batch.n_tokens = n_seq;
            for (int s = 0; s < n_seq; ++s) {
                set(s, s, n_past, true);
            }
            decode();
            llama_get_logits_ith(ctx, n_seq - 1); // waits
            ++n_past;
            res.push_back((ggml_time_us() - t_start)*1e-3);
        }
        return res;
    }

    double evict_seconds() const {
        retain_stats stats;
        return retain_get_stats(ctx, &stats) ? stats.t_select_s + stats.t_move_s : 0.0;
    }

    void print_memory() const {
        retain_stats stats;
        if (retain_get_stats(ctx, &stats)) {
            const double n = std::max<int64_t>(1, stats.n_evictions);
            printf("    pool %.1f MiB for %lld cells at most, %lld evictions of %.2f ms selection and %.2f ms moves, %lld cells moved, "
                   "%.1f us a step in inputs\n", stats.bytes_pool/1048576.0, (long long) stats.n_cells_max, (long long) stats.n_evictions,
                    stats.t_select_s*1e3/n, stats.t_move_s*1e3/n, (long long) stats.n_moved, n_decodes ? stats.t_input_s*1e6/n_decodes : 0.0);
        }
    }

private:
    void set(int i, int seq, int64_t pos, bool logits) {
        batch.token[i]     = rng()%n_vocab;
        batch.pos[i]       = pos;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = seq;
        batch.logits[i]    = logits;
    }

    void decode() {
        if (llama_decode(ctx, batch) != 0) {
            fprintf(stderr, "a batch failed: %s\n", retain_last_error());
            exit(1);
        }
        ++n_decodes;
    }

    const int       n_seq;
    const int       n_vocab;
    llama_context * ctx;
    llama_batch     batch;
    int64_t         n_past    = 0;
    int64_t         n_decodes = 0;
    std::mt19937    rng{1};
};

std::map<int64_t, point> measure(llama_model * model, const options & opt, const std::string & side) {
    std::vector<int64_t> depths;
    for (const auto & depth : split(opt.depths)) {
        depths.push_back(number_of(depth));
    }
    const int64_t n_steps = number_of(opt.steps);
    session s(model, opt, side, depths.back() + n_steps*depths.size() + 512);
    s.read(32); // start-up is not measured

    std::map<int64_t, point> res;
    double read_s = 0.0, read_evict_s = 0.0;
    for (const int64_t depth : depths) {
        point & p = res[depth];
        const double before = s.evict_seconds();
        read_s       += s.read(depth);
        read_evict_s += s.evict_seconds() - before;
        p.read_s     = read_s;
        p.read_evict = read_evict_s/read_s;
        s.write(16); // until graphs are recorded
        const double evict_s = s.evict_seconds();
        auto ms = s.write(n_steps - 16);
        for (const double x : ms) {
            p.mean_ms += x/ms.size();
        }
        p.evict = (s.evict_seconds() - evict_s)*1e3/(p.mean_ms*ms.size());
        std::nth_element(ms.begin(), ms.begin() + ms.size()/2, ms.end());
        p.step_ms = ms[ms.size()/2];
        const int n_seq = number_of(opt.sequences);
        printf("  %-7s depth %6d  prompt %8.3f s (%8.1f tokens/s), evictions %5.2f%%  "
               "step %7.3f ms, mean %7.3f (%7.1f tokens/s), evictions %5.2f%%\n",
                side.c_str(), (int) depth, p.read_s, depth*n_seq/p.read_s, 100*p.read_evict, p.step_ms, p.mean_ms,
                n_seq*1e3/p.mean_ms, 100*p.evict);
        fflush(stdout);
    }
    s.print_memory();
    return res;
}

} // namespace

int main(int argc, char ** argv) {
    options opt;
    read_options(argc, argv, {
        { "--model", &opt.model }, { "--gates", &opt.gates }, { "--depths", &opt.depths }, { "--sides", &opt.sides },
        { "--sequences", &opt.sequences }, { "--budget", &opt.budget }, { "--steps", &opt.steps }, { "--ubatch", &opt.ubatch },
        { "--type", &opt.type },
    });
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_ERROR) {
            fputs(text, stderr);
        }
    }, nullptr);
    llama_backend_init();

    llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = 999;
    llama_model * model = llama_model_load_from_file(opt.model.c_str(), mp);
    if (!model) {
        fprintf(stderr, "cannot load the model '%s'\n", opt.model.c_str());
        return 1;
    }

    std::map<std::string, std::map<int64_t, point>> sides;
    for (const auto & side : split(opt.sides)) {
        sides[side] = measure(model, opt, side);
    }
    for (const auto & [side, points] : sides) {
        for (const auto & [depth, p] : points) {
            if (side != "stock" && sides.count("stock")) {
                const point & stock = sides["stock"][depth];
                printf("%-7s depth %6d, M %s, %s sequences: prompt %.2f, step %.3f, mean %.3f times as fast as stock\n", side.c_str(),
                        (int) depth, opt.budget.c_str(), opt.sequences.c_str(), stock.read_s/p.read_s,
                        stock.step_ms/p.step_ms, stock.mean_ms/p.mean_ms);
            }
        }
    }
    llama_model_free(model);
    return 0;
}
