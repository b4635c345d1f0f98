"""Build the native part of retain-local.

    python native/builder libs --out DIR       build the libraries and copy them to DIR
    python native/builder test [-R REGEX]      build and run the native tests (--sanitize: with ASan and UBSan)
    python native/builder upstream-tests       build and run llama.cpp's own tests of memories, over the pool (minutes)
    python native/builder bench                build the micro-benchmarks, print their directory
    python native/builder stock                build the stock libraries to compare with, print their directory
    python native/builder server               build the server, print its path (--stock: llama.cpp's own, to compare with)
    python native/builder web-ui               build llama.cpp's own page with npm, print its directory
    python native/builder sdist                print the path of the checked source distribution of upstream
    python native/builder missing-tools        print the PyPI packages of build tools that this machine lacks
    python native/builder clean                remove everything that was built or downloaded

Options of CMake go behind -D, such as -D RETAIN_CUDA=ON or -D GGML_NATIVE=OFF, or into the environment variable
CMAKE_ARGS, where pip has them. RETAIN_UPSTREAM_DIR, an option or an environment variable, names an unpacked
source distribution of upstream for builds without a network. RETAIN_PORTABLE=ON makes a build for each generation of
CPUs, in a folder each, of which the program loads the best that runs: for wheels.
"""

import argparse
import os
import pathlib
import re
import shlex
import sys

import toolchain
import upstream
from build import TRUE, Build, cache_directory, clean_cache
from console import BuildError
from levels import portable_builds
from upstream_tests import run_upstream_tests
from web_ui import build_web_ui

# options in CMAKE_ARGS that are for this build, and not for another package's
OURS = re.compile(r"-D(RETAIN|GGML|CMAKE_CUDA|CMAKE_HIP)_")


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="builder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-D", dest="defines", action="append", default=[], metavar="NAME=VALUE", help="a CMake option")
    common.add_argument("--jobs", type=int, help="compilers that run at once (all cores)")
    common.add_argument("--cmake", help="the CMake program to use")

    libs = commands.add_parser("libs", parents=[common], help="build the libraries")
    libs.add_argument("--out", type=pathlib.Path, help="where to copy them")
    libs.add_argument("--sanitize", action="store_true", help="with AddressSanitizer and UBSan, for the fuzzers")
    test = commands.add_parser("test", parents=[common], help="build and run the native tests")
    test.add_argument("--sanitize", action="store_true", help="with AddressSanitizer and UBSan")
    test.add_argument("-R", dest="regex", default=".", help="only the tests whose name matches")
    commands.add_parser("upstream-tests", parents=[common], help="build and run llama.cpp's own tests of memories")
    commands.add_parser("bench", parents=[common], help="build the micro-benchmarks")
    commands.add_parser("stock", parents=[common], help="build the stock libraries")
    server = commands.add_parser("server", parents=[common], help="build the server")
    server.add_argument("--stock", action="store_true", help="llama.cpp's own, without the patches")
    commands.add_parser("web-ui", help="build llama.cpp's own page of the server")
    commands.add_parser("sdist", help="print the path of the source distribution of upstream")
    commands.add_parser("missing-tools", help="print the PyPI packages of missing build tools")
    commands.add_parser("clean", help="remove everything that was built or downloaded")
    return parser.parse_args()


def run(args):
    if args.command == "sdist":
        print(upstream.local_directory() or upstream.sdist(cache_directory()))
        return 0
    if args.command == "web-ui":
        print(build_web_ui())
        return 0
    if args.command == "missing-tools":
        print(*toolchain.missing_tools())
        return 0
    if args.command == "clean":
        clean_cache()
        return 0

    is_stock = args.command == "stock" or getattr(args, "stock", False)
    variant = "stock" if is_stock else "sanitize" if getattr(args, "sanitize", False) else "release"
    from_environment = [word[2:] for word in shlex.split(os.environ.get("CMAKE_ARGS", "")) if OURS.match(word)]
    defines = dict(define.partition("=")[::2] for define in [*from_environment, *args.defines])
    if directory := defines.pop("RETAIN_UPSTREAM_DIR", None):
        os.environ["RETAIN_UPSTREAM_DIR"] = directory
    if defines.pop("RETAIN_PORTABLE", "").upper() in TRUE and args.command == "libs" and args.out:
        for folder, options in portable_builds().items():
            with Build(variant, defines | options, args.cmake, args.jobs).prepared() as build:
                build.compile("retain-libs", f"the native libraries ({folder or 'any CPU'})")
                build.install(args.out.resolve() / folder)
        return 0
    with Build(variant, defines, args.cmake, args.jobs).prepared() as build:
        if args.command == "test":
            build.compile("retain-tests", f"the native tests ({variant})")
            return build.run_tests(args.regex)
        if args.command == "upstream-tests":
            build.compile("retain-upstream-tests", "upstream's tests of memories")
            failed = run_upstream_tests(build.library_directory)
            print(f"failed: {', '.join(failed)}" if failed else "all passed")
            return bool(failed)
        if args.command == "server":
            build.compile("llama-server" if is_stock else "retain-server", f"the server ({variant})")
            print(build.server)
            return 0
        if args.command == "bench":
            build.compile("retain-bench", "the micro-benchmarks")
        else:
            build.compile("retain-libs", f"the native libraries ({variant})")
        if args.command == "libs" and args.out:
            build.install(args.out.resolve())
        else:
            print(build.library_directory)
    return 0


try:
    sys.exit(run(parse_arguments()))
except BuildError as error:
    sys.exit(f"retain-local: {error}")
except KeyboardInterrupt:
    sys.exit(130)
