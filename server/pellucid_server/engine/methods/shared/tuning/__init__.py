"""What tuning curves are made of: stimuli, responses, measures, answers."""
