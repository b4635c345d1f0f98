// retain-threads.h - a few threads that share a loop
//
// They sleep between loops, and start with the first one that is worth it. A loop ends when its work is done, whether or not
// all threads woke up for it, so busy cores cost no more than their help.

#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

class retain_threads {
public:
    // with the thread that calls
    explicit retain_threads(int32_t n_threads) : n_threads(n_threads) {}
    ~retain_threads();

    retain_threads(const retain_threads &) = delete;
    retain_threads & operator=(const retain_threads &) = delete;

    // pieces that a loop is cut into which does n_work simple steps
    int64_t n_parts(int64_t n_work) const;

    // call fn(part, begin, end) for n_parts pieces of [0, n), several at once; rethrows what one of them throws
    void run(int64_t n, int64_t n_parts, const std::function<void(int64_t, int64_t, int64_t)> & fn);

private:
    void start();
    void wait_for_work();
    void work(std::unique_lock<std::mutex> & lock); // takes pieces until none is left

    const int32_t n_threads;

    std::vector<std::thread> threads;
    std::mutex               mutex; // of all that follows
    std::condition_variable  wake;
    std::condition_variable  idle;

    std::function<void(int64_t)> piece; // of the loop that runs
    int64_t            n_pieces = 0;
    int64_t            next     = 0;
    int32_t            n_busy   = 0;
    bool               is_over  = false;
    std::exception_ptr error;
};
