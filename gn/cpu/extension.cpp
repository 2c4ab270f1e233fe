// torch.ops.gn.eager_group_norm: calls the kernels, forward and backward, without executing Python.
//
// At small batches Python takes longer to call a layer than the layer takes to run. This file does what gn/operators.py
// does for plain tensors, with the same kernels. A backward pass that is itself differentiated or transformed calls
// gn/operators.py.

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include "problem.h"

namespace gn {

using at::Tensor;
using Given = std::optional<Tensor>;
using Kernel = void (*)(const Problem*);
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* activations[] = {nullptr, "relu", "silu", "gelu"};

// The kernels by element type and by whether the channels are innermost. extension.py sets them.
Kernel kernels[3][2];

int64_t code(at::ScalarType element) {
    return element == at::kFloat ? 0 : element == at::kBFloat16 ? 1 : 2;
}

// The functions of gn/layout.py and Call.parameter_dtype of gn/call.py.

bool channels_innermost(const Tensor& x) {
    if (x.dim() < 3) return false;
    int64_t stride = 1;
    const auto agrees = [&](int64_t axis) {
        const bool result = x.size(axis) == 1 || x.stride(axis) == stride;
        stride *= x.size(axis);
        return result;
    };
    if (!agrees(1)) return false;
    for (int64_t axis = x.dim() - 1; axis >= 2; --axis)
        if (!agrees(axis)) return false;
    return agrees(0);
}

Tensor dense(const Tensor& x) { return x.is_contiguous() || channels_innermost(x) ? x : x.contiguous(); }

Tensor like(const Tensor& tensor, const Tensor& x) {
    return tensor.strides() == x.strides() ? tensor : at::empty_like(x, tensor.options()).copy_(tensor);
}

at::ScalarType parameter_dtype(const Tensor& weight, const Tensor& bias) {
    return weight.defined() ? weight.scalar_type() : bias.defined() ? bias.scalar_type() : at::kFloat;
}

const void* read(const Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }
void* written(const Tensor& tensor) { return tensor.defined() ? tensor.mutable_data_ptr() : nullptr; }
Tensor contiguous(const Tensor& tensor) { return tensor.defined() ? tensor.contiguous() : tensor; }

// Sets the fields that forward and backward share, and calls the kernel.
void run(Problem& problem, const Tensor& x, const Tensor& weight, const Tensor& bias) {
    const Tensor weights = contiguous(weight), biases = contiguous(bias);
    problem.parameter = code(parameter_dtype(weight, bias));
    problem.threads = at::get_num_threads();
    problem.samples = x.size(0), problem.channels = x.size(1);
    problem.positions = x.numel() / (problem.samples * problem.channels);
    problem.x = read(x), problem.weight = read(weights), problem.bias = read(biases);
    kernels[code(x.scalar_type())][problem.positions == 1 || !x.is_contiguous()](&problem);
}

struct Forward {
    Tensor y, statistics;
};

Forward forward(const Tensor& input, int64_t groups, const Tensor& weight, const Tensor& bias, double eps,
                const Tensor& residual, int64_t activation) {
    const Tensor x = dense(input), added = residual.defined() ? like(residual, x) : residual;
    const Forward result{at::empty_like(x), at::empty({3, x.size(0), groups}, x.options().dtype(at::kFloat))};
    Problem problem{};
    problem.activation = activation, problem.groups = groups, problem.eps = eps;
    problem.residual = read(added);
    problem.y = written(result.y), problem.statistics = static_cast<float*>(written(result.statistics));
    run(problem, x, weight, bias);
    return result;
}

// A gradient that is not requested is undefined. `other` is the gradient of the second output, if there is one; `saved`
// is what Call.saved_residual of gn/call.py returns.
Gradients backward(const Tensor& input, int64_t groups, const Tensor& weight, const Tensor& bias, const Tensor& saved,
                   int64_t activation, const Tensor& upstream, const Tensor& other, const Tensor& statistics,
                   bool needs_dx) {
    const Tensor x = dense(input), dy = like(upstream, x), found = contiguous(statistics);
    const Tensor other_dy = other.defined() ? like(other, x) : other;
    const Tensor residual = saved.defined() ? like(saved, x) : saved;
    const Tensor dx = needs_dx ? at::empty_like(x) : Tensor(), dresidual = saved.defined() ? at::empty_like(x) : saved;
    const Tensor dweight = at::empty({x.size(1)}, x.options().dtype(parameter_dtype(weight, bias)));
    const Tensor dbias = at::empty_like(dweight);
    Problem problem{};
    problem.activation = activation, problem.groups = groups;
    problem.residual = read(residual);
    problem.statistics = static_cast<float*>(found.data_ptr());
    problem.dy = read(dy), problem.other_dy = read(other_dy);
    problem.dx = written(dx), problem.dresidual = written(dresidual);
    problem.dweight = written(dweight), problem.dbias = written(dbias);
    run(problem, x, weight, bias);
    return {dx, dweight, dbias, dresidual};
}

// The rules of gn/dispatch.py.

// Whether a mode, a tracer or a transformation of torch.func must see the operators that are called.
bool is_intercepted() {
    return !(c10::impl::tls_local_dispatch_key_set().included_ - c10::default_included_set).empty();
}

// Whether every tensor that is defined is ordinary memory of the CPU. Whatever is lazy, wrapped or laid out in another
// way has further dispatch keys.
template <class... Tensors>
bool are_plain(const Tensors&... tensors) {
    using namespace c10;
    static const DispatchKeySet plain = at::empty({0}).key_set() - autograd_dispatch_keyset_with_ADInplaceOrView;
    return (tensors.key_set() | ...) - autograd_dispatch_keyset_with_ADInplaceOrView == plain;
}

// Whether a tensor has a gradient of forward-mode differentiation.
template <class... Tensors>
bool have_tangents(const Tensors&... tensors) {
    return ((tensors.defined() && tensors._fw_grad(0).defined()) || ...);
}

// Whether the arguments are valid and plain. For all others gn/functional.py raises an error or calls gn/operators.py.
bool is_accepted(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias, const Tensor& residual,
                 int64_t activation) {
    const auto element = x.scalar_type();
    if (is_intercepted() || !are_plain(x, weight, bias, residual) || have_tangents(x, weight, bias, residual)) return false;
    if (activation < 0 || groups < 1 || x.dim() < 2) return false;
    if (x.numel() == 0 || x.numel() == groups || x.size(1) % groups) return false;
    for (const Tensor& parameter : {weight, bias})
        if (parameter.defined() &&
            !(parameter.dim() == 1 && parameter.size(0) == x.size(1) &&
              (parameter.scalar_type() == element || parameter.scalar_type() == at::kFloat)))
            return false;
    if (weight.defined() && bias.defined() && weight.scalar_type() != bias.scalar_type()) return false;
    return !residual.defined() || (residual.scalar_type() == element && residual.sizes() == x.sizes());
}

struct GroupNorm : torch::autograd::Function<GroupNorm> {
    static variable_list forward(AutogradContext* ctx, const Tensor& x, int64_t groups, const Given& weight,
                                 const Given& bias, double eps, const Given& residual, int64_t activation,
                                 bool return_skip) {
        const Tensor w = weight.value_or(Tensor()), b = bias.value_or(Tensor()), r = residual.value_or(Tensor());
        const auto [y, statistics] = gn::forward(x, groups, w, b, eps, r, activation);
        ctx->set_materialize_grads(false);
        ctx->saved_data["arguments"] = std::vector<double>{double(groups), double(activation), double(r.defined()), eps};
        // As Call.saved_residual does: for a ReLU the output, which the network keeps anyway.
        ctx->save_for_backward({x, statistics, w, b, !activation || !r.defined() ? Tensor() : activation == 1 ? y : r});
        // Views, because autograd raises an error when one of several views is modified in place.
        return return_skip ? variable_list{y.alias(), y.alias()} : variable_list{y};
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& upstream) {
        const Tensor second = upstream.size() > 1 ? upstream[1] : Tensor();
        Tensor dy = upstream[0].defined() ? upstream[0] : second, other = upstream[0].defined() ? second : Tensor();
        if (!dy.defined()) return variable_list(8);
        const auto saved = ctx->get_saved_variables();
        const Tensor &x = saved[0], &statistics = saved[1], &weight = saved[2], &bias = saved[3];
        const Tensor& residual = saved[4];
        const auto arguments = ctx->saved_data["arguments"].toDoubleVector();
        const auto groups = int64_t(arguments[0]), activation = int64_t(arguments[1]);
        const bool has_residual = arguments[2] != 0;
        const bool needs_dx = ctx->needs_input_grad(0);
        // gn/operators.py handles gradients that are differentiated or transformed, and tensors that are not plain.
        const bool special = at::GradMode::is_enabled() || is_intercepted() ||
                             !are_plain(dy, other, x, statistics, weight, bias, residual) || have_tangents(dy, other);
        // Without an activation the upstream gradient is returned as the gradient of the residual: it needs the sum.
        if (other.defined() && (special || (has_residual && !residual.defined()))) dy = dy.add(other), other = Tensor();
        auto [dx, dweight, dbias, dresidual] =
            special ? in_python(x, groups, weight, bias, arguments[3], residual, activation, dy, statistics, needs_dx)
                    : gn::backward(x, groups, weight, bias, residual, activation, dy, other, statistics, needs_dx);
        // The operator gn::gradients returns empty tensors where autograd expects undefined ones.
        if (!needs_dx) dx = Tensor();
        if (!weight.defined()) dweight = Tensor();
        if (!bias.defined()) dbias = Tensor();
        if (!residual.defined()) dresidual = has_residual ? dy : Tensor();
        return {dx, Tensor(), dweight, dbias, Tensor(), dresidual, Tensor(), Tensor()};
    }

    static Gradients in_python(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias, double eps,
                               const Tensor& residual, int64_t activation, const Tensor& dy, const Tensor& statistics,
                               bool needs_dx) {
        static const auto gradients =
            c10::Dispatcher::singleton()
                .findSchemaOrThrow("gn::gradients", "")
                .typed<Gradients(const Tensor&, c10::SymInt, const Given&, const Given&, double, const Given&,
                                 std::optional<std::string_view>, const Tensor&, const Tensor&, bool)>();
        const auto given = [](const Tensor& tensor) { return tensor.defined() ? Given(tensor) : std::nullopt; };
        const char* const name = activations[activation];
        return gradients.call(x, groups, given(weight), given(bias), eps, given(residual),
                              name ? std::optional<std::string_view>(name) : std::nullopt, dy, statistics, needs_dx);
    }
};

// Returns the output, with return_skip twice; an empty list if the arguments are not valid and plain.
variable_list eager_group_norm(const Tensor& x, int64_t groups, const Given& weight, const Given& bias, double eps,
                               const Given& residual, int64_t activation, bool return_skip) {
    const Tensor w = weight.value_or(Tensor()), b = bias.value_or(Tensor()), r = residual.value_or(Tensor());
    if (!is_accepted(x, groups, w, b, r, activation)) return {};
    if (torch::autograd::compute_requires_grad(x, w, b, r))
        return GroupNorm::apply(x, groups, weight, bias, eps, residual, activation, return_skip);
    return variable_list(1 + return_skip, forward(x, groups, w, b, eps, r, activation).y);
}

// Accepts nothing: a tracer or a mode must see the operators of gn/operators.py, whether this file is compiled or not.
variable_list decline(const Tensor&, int64_t, const Given&, const Given&, double, const Given&, int64_t, bool) { return {}; }

}  // namespace gn

extern "C" void gn_use(int element, gn::Kernel contiguous, gn::Kernel channels_last) {
    gn::kernels[element][0] = contiguous;
    gn::kernels[element][1] = channels_last;
}

TORCH_LIBRARY_FRAGMENT(gn, library) {
    library.def(
        "eager_group_norm(Tensor x, int num_groups, Tensor? weight, Tensor? bias, float eps, Tensor? residual, "
        "int activation, bool return_skip) -> Tensor[]",
        torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, TORCH_FN(gn::eager_group_norm)));
    for (const auto key : {c10::DispatchKey::Tracer, c10::DispatchKey::Python})
        library.impl("eager_group_norm", torch::dispatch(key, TORCH_FN(gn::decline)));
}
