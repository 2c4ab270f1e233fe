// torch.ops.gn.eager_batch_norm: what gn/batch_operators.py does for plain tensors.
#pragma once

#include "extension.h"

namespace gn::batch {

// The arguments of a call that are no tensors. `size` is the number of samples that share statistics.
struct Settings {
    bool training;
    double momentum, eps;
    int64_t size, activation;

    void set(Problem& problem, const Tensor& x) const {
        problem.activation = activation, problem.eps = eps, problem.momentum = momentum, problem.training = training;
        problem.groups = x.size(1);
        problem.sets = (x.size(0) + size - 1) / size, problem.set_samples = size;
    }
};

struct Forward {
    Tensor y, statistics;
};

Forward forward(const Tensor& input, const Tensor& mean, const Tensor& variance, const Tensor& weight,
                const Tensor& bias, const Settings& settings, const Tensor& residual) {
    const Tensor x = dense(input), added = residual.defined() ? like(residual, x) : residual;
    Problem problem{};
    settings.set(problem, x);
    const Forward result{at::empty_like(x), at::empty({3, problem.sets, x.size(1)}, x.options().dtype(at::kFloat))};
    problem.residual = read(added);
    problem.y = written(result.y), problem.statistics = static_cast<float*>(written(result.statistics));
    problem.running_mean = static_cast<float*>(written(mean));
    problem.running_var = static_cast<float*>(written(variance));
    run(batch_kernels, problem, x, weight, bias);
    return result;
}

// Whether an average that is defined can be read and written by the kernels.
bool is_average(const Tensor& x, const Tensor& average) {
    return !average.defined() || (average.dim() == 1 && average.size(0) == x.size(1) && average.is_contiguous() &&
                                  average.scalar_type() == at::kFloat && !average.requires_grad());
}

// Whether the arguments are valid and plain, by the rule of has_batch_kernel in gn/backends.py.
bool is_accepted(const Tensor& x, const Tensor& mean, const Tensor& variance, const Tensor& weight, const Tensor& bias,
                 const Tensor& residual, const Settings& settings) {
    if (is_intercepted() || !are_plain(x, mean, variance, weight, bias, residual) ||
        have_tangents(x, weight, bias, residual))
        return false;
    if (settings.activation < 0 || x.dim() < 2 || x.numel() == 0) return false;
    if (!is_average(x, mean) || !is_average(x, variance) || mean.defined() != variance.defined()) return false;
    if (!are_parameters(x, weight, bias) || !is_addend(x, residual)) return false;
    if (!settings.training) return mean.defined() && settings.eps >= 0;
    // The last samples that share statistics may be fewer.
    const int64_t samples = x.size(0), rest = samples % settings.size;
    return settings.eps > 0 && (rest ? rest : settings.size) * x.numel() > samples * x.size(1);
}

struct BatchNorm : torch::autograd::Function<BatchNorm> {
    static constexpr int inputs = 12;

    static variable_list forward(AutogradContext* ctx, const Tensor& x, const Given& mean, const Given& variance,
                                 const Given& weight, const Given& bias, bool training, double momentum, double eps,
                                 const Given& residual, int64_t activation, int64_t size, bool return_skip) {
        const Tensor w = weight.value_or(Tensor()), b = bias.value_or(Tensor()), r = residual.value_or(Tensor());
        const auto [y, statistics] =
            batch::forward(x, mean.value_or(Tensor()), variance.value_or(Tensor()), w, b,
                           {training, momentum, eps, size, activation}, r);
        ctx->set_materialize_grads(false);
        ctx->saved_data["arguments"] =
            std::vector<double>{double(training), eps, double(size), double(activation), double(r.defined())};
        // As Call.saved_residual does: for a ReLU the output, which the network keeps anyway.
        ctx->save_for_backward({x, statistics, w, b, !activation || !r.defined() ? Tensor() : activation == 1 ? y : r});
        // Views, because autograd raises an error when one of several views is modified in place.
        return return_skip ? variable_list{y.alias(), y.alias()} : variable_list{y};
    }

    static variable_list backward(AutogradContext* ctx, const variable_list& upstream) {
        const auto saved = ctx->get_saved_variables();
        const Tensor &input = saved[0], &statistics = saved[1], &weight = saved[2], &bias = saved[3];
        const Tensor& residual = saved[4];
        const auto arguments = ctx->saved_data["arguments"].toDoubleVector();
        const Settings settings{arguments[0] != 0, 0, arguments[1], int64_t(arguments[2]), int64_t(arguments[3])};
        const bool needs_dx = ctx->needs_input_grad(0);
        static const auto in_python =
            c10::Dispatcher::singleton()
                .findSchemaOrThrow("gn::batch_norm_gradients", "")
                .typed<Gradients(const Tensor&, const Given&, const Given&, bool, double, const Given&,
                                 std::optional<std::string_view>, std::optional<c10::SymInt>, const Tensor&,
                                 const Tensor&, bool)>();
        const auto found = node_gradients(
            saved, upstream, arguments[4] != 0, needs_dx,
            [&](const Tensor& dy, const Tensor& other) {
                const Tensor x = dense(input);
                return gradients(x, weight, bias, residual, settings.activation, dy, other, statistics, needs_dx,
                                 [&](Problem& problem) {
                                     settings.set(problem, x);
                                     run(batch_kernels, problem, x, weight, bias);
                                 });
            },
            [&](const Tensor& dy) {
                return in_python.call(input, given(weight), given(bias), settings.training, settings.eps,
                                      given(residual), name(settings.activation), c10::SymInt(settings.size), dy,
                                      statistics, needs_dx);
            });
        variable_list result(inputs);
        if (found) std::tie(result[0], result[3], result[4], result[8]) = *found;
        return result;
    }
};

// Returns the output, with return_skip twice; an empty list if the arguments are not valid and plain. A `ghost` of 0
// stands for the whole batch.
variable_list eager_batch_norm(const Tensor& x, const Given& mean, const Given& variance, const Given& weight,
                               const Given& bias, bool training, double momentum, double eps, const Given& residual,
                               int64_t activation, int64_t ghost, bool return_skip) {
    const Tensor m = mean.value_or(Tensor()), v = variance.value_or(Tensor());
    const Tensor w = weight.value_or(Tensor()), b = bias.value_or(Tensor()), r = residual.value_or(Tensor());
    const int64_t samples = std::max<int64_t>(x.dim() ? x.size(0) : 1, 1);
    const int64_t size = ghost && training ? std::min(ghost, samples) : samples;
    const Settings settings{training, momentum, eps, size, activation};
    if (!is_accepted(x, m, v, w, b, r, settings)) return {};
    if (torch::autograd::compute_requires_grad(x, w, b, r))
        return BatchNorm::apply(x, mean, variance, weight, bias, training, momentum, eps, residual, activation, size,
                                return_skip);
    return variable_list(1 + return_skip, forward(x, m, v, w, b, settings, r).y);
}

variable_list decline(const Tensor&, const Given&, const Given&, const Given&, const Given&, bool, double, double,
                      const Given&, int64_t, int64_t, bool) {
    return {};
}

}  // namespace gn::batch
