"""What the tests share: tiny models and gates, bindings, and independent references."""
