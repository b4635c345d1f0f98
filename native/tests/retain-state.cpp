// retain-state.cpp - saved states: every way in takes the whole state or leaves the context as it was, and says why

#include "tiny-context.h"

#include <fstream>

static std::vector<uint8_t> read_file(const fs::path & path) {
    std::ifstream file(path, std::ios::binary);
    return std::vector<uint8_t>(std::istreambuf_iterator<char>(file), {});
}

static void write_file(const fs::path & path, const std::vector<uint8_t> & data) {
    std::ofstream file(path, std::ios::binary);
    file.write((const char *) data.data(), data.size());
}

static std::vector<uint8_t> changed(std::vector<uint8_t> data, size_t at, uint8_t bits) {
    data[at] ^= bits;
    return data;
}

static std::vector<uint8_t> cut(const std::vector<uint8_t> & data, size_t n) {
    return std::vector<uint8_t>(data.begin(), data.begin() + n);
}

static std::vector<uint8_t> longer(std::vector<uint8_t> data, size_t n) {
    data.resize(data.size() + n, 0);
    return data;
}

// the ways in
struct way {
    const char * name;
    bool         is_file;
    std::function<std::vector<uint8_t>(llama_context *)>               save;
    std::function<bool(llama_context *, const std::vector<uint8_t> &)> load;
};

static std::vector<way> ways(const fs::path & dir) {
    const fs::path path = dir/"state";

    return {
        { "all, from memory", false,
            [](llama_context * ctx) { return state_of(ctx); },
            [](llama_context * ctx, const std::vector<uint8_t> & data) { return llama_state_set_data(ctx, data.data(), data.size()) != 0; } },
        { "a sequence, from memory", false,
            [](llama_context * ctx) { return state_of(ctx, 0); },
            [](llama_context * ctx, const std::vector<uint8_t> & data) { return llama_state_seq_set_data(ctx, data.data(), data.size(), 0) != 0; } },
        { "all, from a file", true,
            [=](llama_context * ctx) {
                const llama_token tokens[3] = { 1, 2, 3 };
                CHECK(llama_state_save_file(ctx, path.c_str(), tokens, 3));
                return read_file(path);
            },
            [=](llama_context * ctx, const std::vector<uint8_t> & data) {
                write_file(path, data);
                llama_token tokens[8];
                size_t n = 0;
                return llama_state_load_file(ctx, path.c_str(), tokens, 8, &n);
            } },
        { "a sequence, from a file", true,
            [=](llama_context * ctx) {
                const llama_token tokens[3] = { 1, 2, 3 };
                CHECK(llama_state_seq_save_file(ctx, path.c_str(), 0, tokens, 3) > 0);
                return read_file(path);
            },
            [=](llama_context * ctx, const std::vector<uint8_t> & data) {
                write_file(path, data);
                llama_token tokens[8];
                size_t n = 0;
                return llama_state_seq_load_file(ctx, path.c_str(), 0, tokens, 8, &n) != 0;
            } },
    };
}

static void test_going_on(llama_model * model, const std::string & gates) {
    const auto rp = small_params(gates);
    llama_context * ctx = retain_init_from_model(model, context_params(2), &rp);
    decode(ctx, 0, 0, random_tokens(1, 50));
    decode(ctx, 1, 0, random_tokens(3, 20));
    CHECK(retain_pin(ctx, 0, 3, 5));

    const auto state = state_of(ctx);
    const auto one   = state_of(ctx, 1);
    const auto kept  = all_positions(ctx, 0);
    const auto want  = decode(ctx, 0, 50, random_tokens(4, 9));

    llama_context * other = retain_init_from_model(model, context_params(2), &rp);
    CHECK(llama_state_set_data(other, state.data(), state.size()) == state.size());
    CHECK(all_positions(other, 0) == kept);
    CHECK(nmse(decode(other, 0, 50, random_tokens(4, 9)), want) < 1e-10);

    // one sequence, into the other's place
    CHECK(llama_state_seq_set_data(other, one.data(), one.size(), 0) == one.size());
    CHECK(all_positions(other, 0) == all_positions(ctx, 1));

    // a sequence without tokens has empty lists
    llama_memory_clear(llama_get_memory(ctx), true);
    const auto empty = state_of(ctx);
    CHECK(llama_state_set_data(other, empty.data(), empty.size()) == empty.size());
    CHECK(retain_n_cells(other, 0) == 0 && retain_n_cells(other, 1) == 0);

    // a buffer may be longer than the state, of which the caller is told the size
    const auto more = longer(state, 100);
    CHECK(llama_state_set_data(other, more.data(), more.size()) == state.size());

    // a context without gates is of another shape
    auto plain = rp;
    plain.gates = nullptr;
    llama_context * foreign = retain_init_from_model(model, context_params(2), &plain);
    CHECK(llama_state_set_data(foreign, state.data(), state.size()) == 0 && error_says("another model"));

    llama_free(foreign);
    llama_free(other);
    llama_free(ctx);
}

// whatever is wrong with a state: it is refused with a reason, and the running session goes on
static void test_refusals(llama_model * model, const tiny_files & files) {
    const auto rp = small_params(files.gates);
    llama_context * saved = retain_init_from_model(model, context_params(2), &rp);
    llama_context * ctx   = retain_init_from_model(model, context_params(2), &rp);
    decode(saved, 0, 0, random_tokens(1, 50));
    decode(ctx, 0, 0, random_tokens(2, 60));
    decode(ctx, 1, 0, random_tokens(3, 20));
    const auto running = state_of(ctx);

    for (const auto & way : ways(files.dir)) {
        // zeros at the end, which a reader that does not notice the end of a file makes up
        const auto state = way.save(saved);

        const auto refused = [&](const std::vector<uint8_t> & bad) {
            retain_clear_error();
            if (way.load(ctx, bad) || strlen(retain_last_error()) == 0 || strchr(retain_last_error(), '\n') || state_of(ctx) != running) {
                fprintf(stderr, "%s: taken, or the session changed, or no reason: '%s'\n", way.name, retain_last_error());
                exit(1);
            }
        };
        for (size_t i = 0; i < state.size(); i = i < 64 ? i + 1 : i + 1 + state.size()/97) {
            refused(cut(state, i));
        }
        for (size_t n = 1; n < 10; ++n) {
            refused(cut(state, state.size() - n));
        }
        if (way.is_file) {
            refused(longer(state, 1));
            refused(longer(state, 4096));
        }
        const size_t n_prefix = way.is_file ? 12 + 3*sizeof(llama_token) : 0;
        for (size_t i = n_prefix + 12; i < state.size(); i = i < 200 ? i + 1 : i + 1 + state.size()/97) {
            refused(changed(state, i, 0x10));
        }
        for (size_t i = 0; i < 8; ++i) {
            if (n_prefix > 0) {
                refused(changed(state, i, 0x80)); // magic number and version of a file
            }
        }

        CHECK(way.load(ctx, state));
        CHECK(all_positions(ctx, 0) == all_positions(saved, 0));
        CHECK(llama_state_set_data(ctx, running.data(), running.size()) == running.size());
    }

    // a reason is one line, whatever is in the file
    auto other_name = state_of(saved);
    other_name[6] = '\n';
    CHECK(llama_state_set_data(ctx, other_name.data(), other_name.size()) == 0 && error_says("wrong model arch: 'll?ma'"));

    size_t n = 0;
    llama_token tokens[2];
    CHECK(!llama_state_load_file(ctx, (files.dir/"absent").c_str(), tokens, 2, &n) && error_says("absent"));
    CHECK(llama_state_seq_load_file(ctx, (files.dir/"absent").c_str(), 0, tokens, 2, &n) == 0 && error_says("absent"));
    const llama_token three[3] = { 1, 2, 3 };
    CHECK(llama_state_save_file(saved, (files.dir/"state").c_str(), three, 3));
    CHECK(!llama_state_load_file(ctx, (files.dir/"state").c_str(), tokens, 2, &n) && error_says("more tokens"));
    CHECK(state_of(ctx) == running);

    llama_free(ctx);
    llama_free(saved);
}

// a state whose cells end in zeros, as a row of V does whose values are none
static void test_zeros_at_the_end(llama_model * model, const tiny_files & files) {
    const auto rp = small_params(files.gates);
    llama_context * ctx = retain_init_from_model(model, context_params(1), &rp);
    decode(ctx, 0, 0, random_tokens(1, 20));
    llama_memory_clear(llama_get_memory(ctx), true); // the lists of an empty sequence are counts of zero
    for (const auto & way : ways(files.dir)) {
        const auto state = way.save(ctx);
        CHECK(state.back() == 0 && state[state.size() - 20] == 0);
        for (size_t n = 1; n <= 20; ++n) {
            retain_clear_error();
            CHECK(!way.load(ctx, cut(state, state.size() - n)));
            CHECK(strlen(retain_last_error()) > 0);
        }
        CHECK(way.load(ctx, state));
    }
    llama_free(ctx);
}

int main() {
    const tiny_files files;
    llama_model * model = files.load();

    test_going_on(model, files.gates);
    test_refusals(model, files);
    test_zeros_at_the_end(model, files);

    llama_model_free(model);

    printf("states: taken whole or not at all\n");
    return 0;
}
