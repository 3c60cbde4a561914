-- One step of putting a writer's sealed epochs back. Returns 1; 0 when the step before it is not known here any more:
-- then nothing is done, and everything begins anew.
-- KEYS: high-water mark, cells of the epoch, sealed epochs of the writer, how far the restoration is.
-- ARGV: where it has to be ('' = it begins here) and where it is then ('' = it ends here); seconds that cells live; the
-- epoch and what is noted for its SEAL ('' = this step does not complete it); what the mark is raised to ('0' = it stays);
-- then field and sum of each cell.
if ARGV[1] ~= '' and redis.call('GET', KEYS[4]) ~= ARGV[1] then
    return 0
end
-- Everything is looked at before the first effect.
local mark = tonumber(redis.call('GET', KEYS[1]) or '0')
if not mark or mark < 0 then
    return redis.error_reply('ERR the high-water mark is no count')
end
redis.call('HLEN', KEYS[2])
redis.call('HLEN', KEYS[3])

if #ARGV > 6 then
    redis.call('HSET', KEYS[2], unpack(ARGV, 7))
    redis.call('EXPIRE', KEYS[2], ARGV[3])
end
if ARGV[5] ~= '' then
    local oldest = tonumber(redis.call('HGET', KEYS[3], 'oldest') or ARGV[4])
    redis.call('HSET', KEYS[3], ARGV[4], ARGV[5], 'oldest', string.format('%d', math.min(oldest, tonumber(ARGV[4]))))
    redis.call('EXPIRE', KEYS[3], string.format('%d', 2 * tonumber(ARGV[3])))
end
-- Each step renews it: what nobody goes on with is forgotten.
if ARGV[2] ~= '' then
    redis.call('SET', KEYS[4], ARGV[2], 'EX', 3600)
else
    redis.call('DEL', KEYS[4])
end
if tonumber(ARGV[6]) > mark then
    redis.call('SET', KEYS[1], ARGV[6])
end
return 1
