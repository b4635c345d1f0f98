#include "retain-threads.h"

#include <algorithm>
#include <utility>

// a guess: waking a thread takes some 10 us, and a step that reads a cell from memory a few ns
static constexpr int64_t MIN_WORK = 4096;

// more pieces than threads, so that one that is held up leaves its share to the others
static constexpr int64_t PARTS_PER_THREAD = 4;

retain_threads::~retain_threads() {
    {
        std::lock_guard<std::mutex> lock(mutex);
        is_over = true;
    }
    wake.notify_all();
    for (auto & thread : threads) {
        thread.join();
    }
}

int64_t retain_threads::n_parts(int64_t n_work) const {
    return n_threads <= 1 ? 1 : std::clamp<int64_t>(n_work/MIN_WORK, 1, PARTS_PER_THREAD*n_threads);
}

void retain_threads::run(int64_t n, int64_t n_parts, const std::function<void(int64_t, int64_t, int64_t)> & fn) {
    if (n_parts == 1) {
        fn(0, 0, n);
        return;
    }
    start();

    std::unique_lock<std::mutex> lock(mutex);
    piece    = [&](int64_t i) { fn(i, i*n/n_parts, (i + 1)*n/n_parts); };
    n_pieces = n_parts;
    next     = 0;
    wake.notify_all();

    work(lock);
    idle.wait(lock, [&] { return n_busy == 0; });

    if (error) {
        std::rethrow_exception(std::exchange(error, nullptr));
    }
}

void retain_threads::start() {
    while ((int32_t) threads.size() < n_threads - 1) {
        threads.emplace_back([this] { wait_for_work(); });
    }
}

void retain_threads::wait_for_work() {
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
        wake.wait(lock, [&] { return is_over || next < n_pieces; });
        if (is_over) {
            return;
        }
        work(lock);
    }
}

void retain_threads::work(std::unique_lock<std::mutex> & lock) {
    ++n_busy;
    while (next < n_pieces) {
        const int64_t i = next++;
        lock.unlock();
        std::exception_ptr thrown;
        try {
            piece(i);
        } catch (...) {
            thrown = std::current_exception();
        }
        lock.lock();
        if (thrown) {
            error = thrown;
            next  = n_pieces;
        }
    }
    if (--n_busy == 0) {
        idle.notify_one();
    }
}
