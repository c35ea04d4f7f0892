"""Who may ask what: identities, their roles and quotas, tokens, certificates, and files that are read anew."""
