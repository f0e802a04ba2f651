"""One macro per real pattern: a Catch2 test, a .proto of ours, a BPF object."""

load("@rules_cc//cc:defs.bzl", "cc_library", "cc_test")

def hk_test(name, srcs, deps = [], tags = [], **kwargs):
    """A Catch2 test. Tag "netns" marks one that needs root and network namespaces (e2e/run netns runs those)."""
    cc_test(
        name = name,
        srcs = srcs,
        tags = tags + (["local"] if "netns" in tags else []),
        deps = deps + ["//common/testing:catch_main"],
        **kwargs
    )

def hk_proto(name, src, deps = [], grpc = False, visibility = None):
    """Generates NAME (a cc_library) from one .proto; includes are workspace-relative: "proto/heterok8s/v1/x.pb.h".

    deps name other hk_proto targets of the same package; their sources are visible to protoc."""
    base = src[:-len(".proto")]
    outs = [base + ".pb.h", base + ".pb.cc"]
    cmd = "protoc -I. --cpp_out=$(GENDIR) $(location {})".format(src)
    if grpc:
        outs += [base + ".grpc.pb.h", base + ".grpc.pb.cc"]
        cmd += " && protoc -I. --grpc_out=$(GENDIR) --plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin $(location {})".format(src)
    native.filegroup(name = name + "_src", srcs = [src] + [d + "_src" for d in deps], visibility = visibility)
    native.genrule(name = name + "_gen", srcs = [src] + [d + "_src" for d in deps], outs = outs, cmd = cmd)
    cc_library(
        name = name,
        srcs = [o for o in outs if o.endswith(".cc")],
        hdrs = [o for o in outs if o.endswith(".h")],
        copts = ["-Wno-all", "-Wno-extra"],
        visibility = visibility,
        deps = deps + (["@sys//:grpc"] if grpc else ["@sys//:protobuf"]),
    )

def hk_bpf(name, src, hdrs = [], visibility = None):
    """Compiles one BPF C file with clang and embeds the object as NAME (a cc_library).

    The header NAME.bpf.h declares `extern "C" const unsigned char NAME_bpf[]; extern "C" const unsigned int NAME_bpf_len;`."""
    native.genrule(
        name = name + "_obj",
        srcs = [src] + hdrs,
        outs = [name + ".bpf.o"],
        cmd = "clang-14 -O2 -g -Wall -mcpu=v3 -target bpf -I. -I/usr/include/$$(uname -m)-linux-gnu -c $(location {}) -o $@".format(src),
    )
    native.genrule(
        name = name + "_embed",
        srcs = [name + ".bpf.o"],
        outs = [name + ".bpf.h", name + ".bpf.S"],
        cmd = " && ".join([
            "printf '#pragma once\\nextern \"C\" const unsigned char {n}_bpf[];\\nextern \"C\" const unsigned int {n}_bpf_len;\\n' > $(location {n}.bpf.h)".format(n = name),
            "printf '.section .rodata\\n.global {n}_bpf\\n.global {n}_bpf_len\\n.balign 16\\n{n}_bpf:\\n.incbin \"%s\"\\n1:\\n.balign 4\\n{n}_bpf_len: .int 1b - {n}_bpf\\n.section .note.GNU-stack,\"\",@progbits\\n' $(location {n}.bpf.o) > $(location {n}.bpf.S)".format(n = name),
            # Bazel forgets inputs that the compiler's dependency file does not name, as .incbin's: with the object's
            # checksum in its text, a new object makes a new source.
            "echo \"/* $$(cksum < $(location {n}.bpf.o)) */\" >> $(location {n}.bpf.S)".format(n = name),
        ]),
    )
    cc_library(
        name = name,
        srcs = [name + ".bpf.S"],
        hdrs = [name + ".bpf.h"],
        # The assembler reads the object by path, so the object must be an input of the compile action.
        textual_hdrs = [name + ".bpf.o"],
        visibility = visibility,
    )
