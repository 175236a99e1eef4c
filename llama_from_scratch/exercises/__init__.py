"""Checks that tell a learner what is wrong. Each chapter's checks stand in a module of their own."""

from .rmsnorm import check_backward, check_by_hand, check_centre, check_eps, check_fold, check_rms_norm

__all__ = ["check_backward", "check_by_hand", "check_centre", "check_eps", "check_fold", "check_rms_norm"]
